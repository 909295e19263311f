"""``facekeep enroll``: one person, or everybody of a folder or a manifest."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from facekeep.cli import output
from facekeep.cli.answers import tell_receipt
from facekeep.cli.bulk import Bulk, Failure, Tally
from facekeep.cli.manifest import read_source
from facekeep.cli.opened import now_ms, open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.probes import (
    check_standard_input,
    embedding_options,
    extractor_option,
    read_embeddings,
    read_image,
)
from facekeep.cli.problems import PARTLY_DONE
from facekeep.cli.progress import Progress
from facekeep.cli.receipts import Receipts
from facekeep.cli.terms import Statement, consent_options
from facekeep.errors import UsageError
from facekeep.vault import Existing

_QUOTED = re.compile(r"""(['"]).*\1""")


@click.command("enroll", short_help="Seal the templates of one person or of many, under consent.")
@click.argument("subject", required=False)
@click.argument("images", nargs=-1)
@click.option(
    "--from",
    "source",
    metavar="DIR|FILE",
    help="Many people: a folder with a folder each, JSON lines, or - for JSON lines on standard input.",
)
@click.option(
    "--receipts",
    "receipts_file",
    metavar="FILE",
    help="With --from: write everybody's receipt to this new file. It names people.",
)
@consent_options
@click.option(
    "--existing",
    type=click.Choice([each.value for each in Existing]),
    help="What to do with who is enrolled already; refuse by default, with --from skip.",
)
@extractor_option
@embedding_options
@common
@with_state
def command(
    state: State,
    /,
    subject: str | None,
    images: tuple[str, ...],
    source: str | None,
    receipts_file: str | None,
    existing: str | None,
    extractor: str | None,
    embedding: str | None,
    model_text: str | None,
    **said: Any,  # noqa: ANN401 - the fields of Statement
) -> int:
    """Seal the templates of one person or of many, under consent.

    SUBJECT is your id of the person; the vault seals it too. Every photograph gives one template, and several
    also their mean. With --from, one bad photograph stops nobody else, and the same command goes on where it
    was stopped.
    """
    statement = Statement(**said)
    if source is not None:
        if subject is not None or embedding is not None:
            raise UsageError("--from takes its people from the source alone")
        bulk = _Wanted(source, statement, Existing(existing or "skip"), extractor, model_text, receipts_file)
        tally = _many(state, bulk)
        return PARTLY_DONE if tally.failures else 0
    if receipts_file is not None:
        raise UsageError("--receipts goes with --from", next="one person's receipt is printed")
    if subject is None:
        raise UsageError("nobody was named", next="name a subject and photographs, or a source with --from")
    consent = statement.consent(now_ms())
    check_standard_input(*images, embedding)
    photographs = [read_image(image) for image in images]
    rows, model = (None, None) if embedding is None else read_embeddings(embedding, model_text)
    with open_vault(state, extractor) as vault:
        receipt = vault.enroll(
            subject,
            photographs,
            consent=consent,
            embeddings=rows,
            model=model,
            existing=existing or "refuse",
        )
    tell_receipt(receipt, "enrolled", as_json=state.json)
    return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for with --from."""

    source: str
    statement: Statement
    existing: Existing
    extractor: str | None
    model_text: str | None
    receipts: str | None


def _many(state: State, wanted: _Wanted) -> Tally:
    source, statement = read_source(wanted.source, wanted.statement), wanted.statement
    with open_vault(state, wanted.extractor) as vault, contextlib.ExitStack() as closing:
        bulk = Bulk(vault, wanted.existing, wanted.model_text)
        if (statement.scopes and statement.expires and statement.notice) or source.unit == "folder":
            bulk.check(statement)
        receipts = None
        if wanted.receipts is not None:
            receipts = bulk.receipts = closing.enter_context(Receipts(Path(wanted.receipts)))
        try:
            with Progress("enrolling") as progress:
                tally = bulk.run(source, progress)
        except BaseException as error:
            if not state.json:
                output.say(
                    f"stopped; {output.counted(bulk.tally.enrolled, 'person', 'people')} enrolled so far"
                )
            if receipts is not None:
                receipts.warn()
                receipts.go_on(error)
            raise
    if state.json:
        output.json_line(tally.to_json())
    else:
        _tell(tally, source.unit)
    if receipts is not None:
        receipts.warn()
    return tally


def _tell(tally: Tally, unit: str) -> None:
    for failure in tally.left_out:
        output.say(f"{_where(failure, unit)}: a photograph was left out: {_why(failure)}")
    for failure in tally.failures:
        output.say(f"{_where(failure, unit)}: {_why(failure)}")
        output.hint(f"next: {failure.error.next.command}")
    output.data("enrolled", tally.enrolled)
    output.data("skipped", tally.skipped)
    output.data("failed", len(tally.failures))
    if tally.left_out:
        output.say(f"{output.counted(len(tally.left_out), 'photograph')} left out")


def _where(failure: Failure, unit: str) -> str:
    """Item's number; the person's id beside it on a terminal only, never into somebody's log file."""
    named = f" ({failure.subject})" if failure.subject and sys.stderr.isatty() else ""
    return f"{unit} {failure.number}{named}"


def _why(failure: Failure) -> str:
    """Say what was wrong; the names of files, often people's, on a terminal only."""
    message = str(failure.error)
    if not sys.stderr.isatty():
        message = _QUOTED.sub("a file", message)
    return f"{message} ({failure.error.code})"
