"""``facekeep identify``: who is this? Exit status 0 with candidates, 1 unknown."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.answers import threshold_json, threshold_words
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.probes import probe_options, read_probe
from facekeep.cli.progress import Progress
from facekeep.vault import Candidate


@click.command("identify", short_help="Search everybody who consented to it.")
@click.argument("image", required=False)
@click.option("--top", type=int, help="Candidates at the most; by default as the settings say.")
@probe_options
@common
@with_state
def command(
    state: State,
    /,
    image: str | None,
    top: int | None,
    extractor: str | None,
    region: str | None,
    with_score: bool,
    **given: str | None,
) -> int:
    """Search everybody who consented to it."""
    probe = read_probe(image, **given)
    with open_vault(state, extractor) as vault, Progress("opening the gallery") as progress:
        found = vault.identify(
            probe.image,
            top,
            model=probe.model,
            threshold=probe.threshold,
            region=region,
            with_score=with_score,
            progress=progress,
        )
    if state.json:
        output.json_line(
            {
                "candidates": [_candidate(each) for each in found.candidates],
                "compared": found.compared,
                "excluded": found.excluded,
                "decision": found.decision,
                "threshold": threshold_json(found.threshold),
            }
        )
        return 0 if found.candidates else 1
    for each in found.candidates:
        output.data(each.rank, each.subject, *([] if each.score is None else [f"{each.score:.2f}"]))
    if not found.candidates:
        output.line("unknown")
    output.say(
        f"compared {output.counted(found.compared, 'grant')}, left out {found.excluded}; "
        f"decision {found.decision}, {threshold_words(found.threshold)}"
    )
    return 0 if found.candidates else 1


def _candidate(candidate: Candidate) -> dict[str, object]:
    told: dict[str, object] = {"subject": candidate.subject, "rank": candidate.rank}
    if candidate.score is not None:
        told["score"] = candidate.score
    return told
