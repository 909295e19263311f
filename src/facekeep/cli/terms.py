"""Consent as the command line or a manifest line states it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from facekeep.cli.times import moment_ms
from facekeep.consent.consent import Consent, Notice
from facekeep.errors import ConsentError
from facekeep.formats.terms import Scope, scopes_of

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Statement:
    """Consent in the words of the person who typed it; ``consent`` reads them."""

    scopes: tuple[str, ...] = ()
    expires: str | None = None
    notice: str | None = None
    language: str = "en"
    purpose: str = "face matching"
    controller: str = "not stated"
    regions: tuple[str, ...] = ()
    not_before: str | None = None
    expressed_by: str = "data-subject"
    expressed_at: str | None = None

    def consent(self, now_ms: int, notice_of: Callable[[Path, str], Notice] = Notice.from_file) -> Consent:
        """Read it; raises ConsentError when something is missing or cannot be read."""
        if self.expires is None:
            raise ConsentError(
                "consent needs an end",
                next="say when it expires: --expires 365d, or a date such as 2027-05-01",
            )
        if self.notice is None:
            raise ConsentError(
                "consent needs the notice the person was shown", next="name its file with --notice FILE"
            )
        return Consent(
            scopes=scopes_of(self.scopes),
            notice=notice_of(Path(self.notice), self.language),
            expires_at_ms=moment_ms(self.expires, now_ms, "the expiry"),
            purpose=self.purpose,
            controller=self.controller,
            regions=self.regions or None,
            not_before_ms=_optional(self.not_before, now_ms, "the beginning"),
            expressed_by=self.expressed_by,
            expressed_at_ms=_optional(self.expressed_at, now_ms, "the time of consent"),
        )


def _optional(text: str | None, now_ms: int, what: str) -> int | None:
    return None if text is None else moment_ms(text, now_ms, what)


def scope_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --scope, which may be given several times."""
    words = [scope.word for scope in Scope]
    return click.option(
        "--scope", "scopes", multiple=True, type=click.Choice(words), help="What is consented to; repeat it."
    )(function)


def consent_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add the options that make a Statement; the command takes them as keyword arguments."""
    for option in (
        click.option("--expressed-at", metavar="TIME", help="When they consented, if not now."),
        click.option(
            "--expressed-by", default="data-subject", show_default=True, metavar="WHO",
            help="Who consented: the person, or for example a guardian.",
        ),
        click.option("--not-before", metavar="TIME", help="When consent begins, if not now."),
        click.option(
            "--region", "regions", multiple=True, metavar="CC",
            help="Country where templates may be processed, or EU; repeat it. The vault's own by default.",
        ),
        click.option(
            "--controller", default="not stated", show_default=True, help="Who decides on the processing."
        ),
        click.option("--purpose", default="face matching", show_default=True, help="What it is for."),
        click.option("--language", default="en", show_default=True, help="The notice's language (BCP 47)."),
        click.option("--notice", metavar="FILE", help="The notice they were shown; only its hash is kept."),
        click.option("--expires", metavar="TIME", help="End of consent: 365d, 12h or 2027-05-01 (UTC)."),
    ):  # fmt: skip
        function = option(function)
    return scope_option(function)
