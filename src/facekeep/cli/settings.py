"""``facekeep settings``: where templates are processed, where the live copies are, what is due when."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.probes import check_standard_input, read_threshold
from facekeep.errors import UsageError
from facekeep.formats.matching import BOUNDS, Matching
from facekeep.operations.settings import SettingsChange
from facekeep.vault import Settings


@click.command("settings", short_help="Show or change regions, copies, schedule and limits on matching.")
@click.option("--region", metavar="CC", help="Country of processing.")
@click.option(
    "--further-region", "further", multiple=True, metavar="CC",
    help="Country that callers may name besides it; repeat it. Those that are not named are removed.",
)  # fmt: skip
@click.option("--no-further-region", "no_further", is_flag=True, help="Remove all: only --region is left.")
@click.option(
    "--copy", "copies", multiple=True, metavar="DIR",
    help="Directory for live second copies; repeat it. Those that are not named are removed.",
)  # fmt: skip
@click.option("--no-copy", is_flag=True, help="Remove all: accept that one lost file loses the vault.")
@click.option(
    "--schedule", multiple=True, metavar="KEY=VALUE",
    help="What is due when, such as root_days=7 or root_days=default; repeat it.",
)  # fmt: skip
@click.option(
    "--matching", multiple=True, metavar="KEY=VALUE",
    help="What a service may ask, such as top=3, scores=yes or asks=default; repeat it.",
)  # fmt: skip
@click.option(
    "--threshold", "thresholds", multiple=True, metavar="FILE.json",
    help="Register a threshold, in place of its model's; repeat it.",
)  # fmt: skip
@click.option(
    "--search-threshold", "search_thresholds", multiple=True, metavar="FILE.json",
    help="Register a threshold for searches alone, most often a stricter one; repeat it.",
)  # fmt: skip
@click.option(
    "--no-threshold", "no_thresholds", multiple=True, metavar="MODEL",
    help="Register none for a model: its calibrated one counts, if it has one.",
)  # fmt: skip
@common
@with_state
def command(
    state: State,
    *,
    region: str | None,
    further: tuple[str, ...],
    no_further: bool,
    copies: tuple[str, ...],
    no_copy: bool,
    schedule: tuple[str, ...],
    matching: tuple[str, ...],
    thresholds: tuple[str, ...],
    search_thresholds: tuple[str, ...],
    no_thresholds: tuple[str, ...],
) -> None:
    """Show or change regions, copies, schedule and limits on matching.

    Without an option it shows them. A new copy directory is empty; it gets its copies at once. Processes that
    have the vault open go by the change from their next call on.
    """
    if copies and no_copy:
        raise UsageError("--copy and --no-copy contradict each other")
    if further and no_further:
        raise UsageError("--further-region and --no-further-region contradict each other")
    check_standard_input(*thresholds, *search_thresholds)
    regions = further if further or no_further else None
    wanted = [Path(each) for each in copies] if copies or no_copy else None
    registered, searching = (
        [read_threshold(each) for each in given] for given in (thresholds, search_thresholds)
    )
    change = None
    with open_vault(state) as vault:
        given = (region, regions, wanted)
        limits = any((matching, registered, searching, no_thresholds))
        if schedule or limits or any(each is not None for each in given):
            change = vault.change_settings(
                region=region,
                regions=regions,
                copies=wanted,
                schedule=schedule,
                matching=matching,
                thresholds=registered,
                search_thresholds=searching,
                no_thresholds=no_thresholds,
            )
        settings = vault.settings
    if state.json:
        found: dict[str, object] = {
            "region": settings.region,
            "regions": list(settings.regions),
            "root": settings.root_uri,
            "copies": list(settings.copies),
            "schedule": asdict(settings.schedule),
            "matching": asdict(settings.matching)
            | {
                "thresholds": [json.loads(text) for text in settings.matching.thresholds],
                "search_thresholds": [json.loads(text) for text in settings.matching.search_thresholds],
            },
        }
        if change is not None:
            found |= {"entry": change.entry, "added": list(change.added), "removed": list(change.removed)}
        output.json_line(found)
        return
    _tell(settings)
    if change is not None:
        _tell_change(change)


def _tell(settings: Settings) -> None:
    output.data("region", settings.region)
    for each in settings.regions:
        output.data("further region", each)
    output.data("root key", settings.root_uri)
    for copy in settings.copies:
        output.data("live copies", copy)
    for key, value in asdict(settings.schedule).items():
        output.data(f"schedule {key}", value if value != "" else "-")
    _tell_matching(settings.matching)
    if not settings.copies:
        output.warn(
            "keys.db and log.db have no live second copy: one lost file would lose the vault",
            "facekeep settings --copy DIR, on another disk",
        )


def _tell_matching(matching: Matching) -> None:
    for key in ("scores", *BOUNDS):
        output.data(f"matching {key}", str(getattr(matching, key)).lower())
    for what, search, found in (
        ("threshold", False, matching.limits),
        ("search threshold", True, matching.search_limits),
    ):
        for model, limits in sorted(found.items()):
            source = "calibrated" if matching.registered(model, search=search) is None else "registered"
            output.data(f"{what} {model}", f"{limits.value_e6 / 1e6:g}", f"{limits.mean_e6 / 1e6:g}", source)


def _tell_change(change: SettingsChange) -> None:
    if change.entry is None:
        output.say("that is what they were; nothing was changed")
        return
    output.say(f"changed, log entry {change.entry}; processes that have the vault open go by it from now on")
    for directory in change.removed:
        output.warn(
            f"{directory} is kept up to date no longer; its keys.db and log.db were left there",
            "remove them: with the root of its time an old keys.db opens what was living then",
        )
