"""Subjects whose grants are ready to be made, and the operation that makes all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from facekeep.access.core import Core, View
from facekeep.access.session import Session
from facekeep.operations.granting import Batch, NewGrant, make_grants
from facekeep.operations.receipts import GrantReceipt, Receipt
from facekeep.store.vaultdb import GrantRow


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
    batch = Batch(op, grants, index_rows, retire, retire_op)
    made = iter(make_grants(core, view, session.by, batch) if grants else ())
    return [_receipt(each, list(itertools.islice(made, len(each.grants)))) for each in prepared]


def _receipt(each: Prepared, rows: Sequence[GrantRow]) -> Receipt:
    grants = tuple(
        GrantReceipt(grant.scope.word, row.grant_id.hex(), row.slot, int.from_bytes(row.terms[12:20], "big"))
        for grant, row in zip(each.grants, rows, strict=True)
    )
    return Receipt(each.subject, each.tag.hex(), each.salt.hex(), grants, each.skipped)
