"""``facekeep verify``: is this the person? Exit status 0 a match, 1 none."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.answers import threshold_json, threshold_words
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.probes import probe_options, read_probe


@click.command("verify", short_help="Compare a photograph with one person.")
@click.argument("subject")
@click.argument("image", required=False)
@probe_options
@common
@with_state
def command(
    state: State,
    /,
    subject: str,
    image: str | None,
    extractor: str | None,
    region: str | None,
    with_score: bool,
    **given: str | None,
) -> int:
    """Compare a photograph with one person."""
    probe = read_probe(image, **given)
    with open_vault(state, extractor) as vault:
        found = vault.verify(
            subject,
            probe.image,
            model=probe.model,
            threshold=probe.threshold,
            region=region,
            with_score=with_score,
        )
    if state.json:
        answer: dict[str, object] = {
            "match": found.match,
            "decision": found.decision,
            "threshold": threshold_json(found.threshold),
        }
        if found.score is not None:
            answer["score"] = found.score
        output.json_line(answer)
    else:
        output.line("match" if found.match else "no match")
        if found.score is not None:
            output.line(f"distance {found.score:.2f}")
        output.say(f"decision {found.decision}, {threshold_words(found.threshold)}")
    return 0 if found.match else 1
