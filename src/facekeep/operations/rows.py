"""A subject's living grants, authenticated: what administration works on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import cast

from facekeep.access.core import Core, View
from facekeep.access.gate import is_logged
from facekeep.consent.consent import subject_tag
from facekeep.errors import IntegrityError, SlotDead
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import SALT_LEN, check_subject_id, from_hex
from facekeep.formats.terms import Scope, Terms
from facekeep.store.vaultdb import GrantRow
from facekeep.wiping import wipe


@dataclass(frozen=True, slots=True)
class LivingGrant:
    """A row whose slot lives, with its authentic terms and record."""

    row: GrantRow
    terms: Terms
    record: JsonObject

    @property
    def scope(self) -> Scope:
        """The granted scope."""
        return self.terms.scope

    @property
    def subject(self) -> str:
        """The caller's subject id."""
        return str(self.record["subject"])

    @property
    def salt(self) -> bytes:
        """Salt of the subject tag."""
        return from_hex(self.record.get("salt"), SALT_LEN, "a salt")

    @property
    def images(self) -> int:
        """Photographs behind the templates."""
        return cast("int", self.record["images"])

    @property
    def spread(self) -> JsonObject | None:
        """How far apart the rows of several photographs lie (SPEC §5.5)."""
        return cast("JsonObject | None", self.record.get("spread"))


def living(core: Core, view: View, row: GrantRow) -> LivingGrant | None:
    """Return the grant of a row; raises IntegrityError if altered.

    None when its slot is dead or pending, or was never given out.
    """
    if not view.given_out(row.slot):
        return None
    if view.pending.destroying(row.slot) or view.pending.granting(row.slot):
        return None
    try:
        key = core.slot_key(view, row.slot)
    except SlotDead:
        return None
    try:
        record = core.sealer.open_record(key, row)
    finally:
        wipe(key)
    grant = LivingGrant(row, Terms.unpack(row.terms), record)
    if subject_tag(core.vault_id, grant.salt, check_subject_id(grant.subject)) != row.tag:
        raise IntegrityError("a consent record belongs to another subject than its row")
    return grant


def living_of(core: Core, view: View, tag: bytes) -> list[LivingGrant]:
    """Living grants of a subject tag, by slot; raises IntegrityError when one was altered."""
    grants = (living(core, view, row) for row in core.rows_of(view, tag))
    return [grant for grant in grants if grant is not None]


def any_of_model(core: Core, view: View, model_id: str) -> LivingGrant | None:
    """Return a living grant of a model id, most often the newest: what that id stands for in this vault."""
    with contextlib.closing(core.data.of_model(model_id)) as rows:
        for row in rows:
            if not view.given_out(row.slot):
                continue
            with contextlib.suppress(IntegrityError):  # says nothing; 'facekeep check' tells of it
                grant = living(core, view, row) if is_logged(core, row) else None
                if grant is not None:
                    return grant
    return None
