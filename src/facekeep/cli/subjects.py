"""``facekeep subjects``: who is in the vault, and until when."""

from __future__ import annotations

import click

from facekeep.cli import output
from facekeep.cli.opened import open_vault
from facekeep.cli.options import State, common, with_state
from facekeep.cli.progress import Progress
from facekeep.cli.times import span_ms, written
from facekeep.operations.status import SubjectInfo


@click.command("subjects", short_help="List people and their grants.")
@click.option("--due", metavar="SPAN", help="Only those with a grant that ends within, for example, 30d.")
@common
@with_state
def command(state: State, due: str | None) -> None:
    """List people and their grants.

    One line a grant: id, scope, live or not_yet or expired, end, regions, photographs, model.
    """
    within = None if due is None else span_ms(due)
    with open_vault(state) as vault, Progress("opening records") as progress:
        found = list(vault.subjects(due_within_ms=within, progress=progress))
    if state.json:
        output.json_line({"subjects": [_told(each) for each in found]})
        return
    for subject in found:
        for grant in subject.grants:
            regions, images = ",".join(grant.regions), grant.images
            output.data(
                subject.subject,
                grant.scope,
                grant.state,
                written(grant.expires_at_ms),
                regions,
                images,
                grant.model,
            )
    output.say(output.counted(len(found), "subject"))


def _told(subject: SubjectInfo) -> dict[str, object]:
    return {
        "subject": subject.subject,
        "tag": subject.tag,
        "grants": [
            {
                "scope": grant.scope,
                "state": grant.state,
                "not_before_ms": grant.not_before_ms,
                "expires_at_ms": grant.expires_at_ms,
                "regions": list(grant.regions),
                "model": grant.model,
                "images": grant.images,
                "slot": grant.slot,
            }
            for grant in subject.grants
        ],
    }
