"""Subjects whose grants are ready to be made, and the operation that makes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from facekeep.access.core import Core, View
from facekeep.access.session import Session
from facekeep.formats.terms import Scope, expires_at
from facekeep.operations.granting import Batch, NewGrant, make_grants
from facekeep.operations.receipts import GrantReceipt, Receipt
from facekeep.sealing.many import Place

_WORDS: Final = {scope: scope.word for scope in Scope}


class Prepared(NamedTuple):
    """A subject's part of a batch; ``retire`` are the slots that its new grants replace."""

    subject: str
    tag: bytes
    salt: bytes
    grants: tuple[NewGrant, ...]
    index_row: tuple[bytes, bytes] | None
    retire: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()


def carry_out(
    core: Core,
    view: View,
    session: Session,
    op: str,
    prepared: Sequence[Prepared],
    retire_op: str = "reseal",
) -> list[Receipt]:
    """Make every grant in one durable operation; returns the subjects' receipts, in order."""
    grants = [grant for each in prepared for grant in each.grants]
    index_rows = [each.index_row for each in prepared if each.index_row is not None]
    retire = [slot for each in prepared for slot in each.retire]
    told: list[Receipt] = []

    def tell(places: Sequence[Place]) -> None:
        told.extend(_receipts(prepared, places))

    if grants:
        make_grants(core, view, session.by, Batch(op, grants, index_rows, retire, retire_op), tell)
    else:
        tell(())
    return told


def _receipts(prepared: Sequence[Prepared], places: Sequence[Place]) -> Iterator[Receipt]:
    at = 0
    for each in prepared:
        grants = tuple(
            GrantReceipt(_WORDS[grant.scope], place.grant_id.hex(), place.slot, expires_at(grant.terms))
            for grant, place in zip(each.grants, places[at : at + len(each.grants)], strict=True)
        )
        at += len(grants)
        yield Receipt(each.subject, each.tag.hex(), each.salt.hex(), grants, each.skipped)
