"""Living grants of a subject whose templates are opened to be sealed again, and those that cannot be."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facekeep.access.core import Core, View
from facekeep.access.gate import permit_reseal
from facekeep.crypto.memory import LockedBuffer
from facekeep.errors import UsageError
from facekeep.operations.rows import LivingGrant
from facekeep.operations.whose import Held
from facekeep.sealing.sealer import view_templates
from facekeep.wiping import wipe


def opened(
    core: Core, view: View, grant: LivingGrant, cleanup: contextlib.ExitStack
) -> npt.NDArray[np.float32]:
    """Open a living grant's templates to seal them again; called after the intent names it."""
    size = 4 * grant.terms.count * grant.terms.dimension
    buffer = cleanup.enter_context(LockedBuffer(size))
    slot_key = core.slot_key(view, grant.row.slot)
    try:
        key = core.sealer.row_key(slot_key, grant.row)
        core.sealer.open_templates(permit_reseal((grant.row.slot,)), key, grant.row, buffer.view)
        wipe(key)
    finally:
        wipe(slot_key)
    return view_templates(buffer.view, grant.terms.count, grant.terms.dimension)


def without_rows(held: Held, grants: Sequence[LivingGrant]) -> list[int]:
    """Living slots of a subject, by the log, that are not among its grants in vault.db.

    A second grant made beside one of them would outlive the subject's next renewal.
    """
    known = {grant.row.slot for grant in grants}
    return [slot for slot in held.slots if slot not in known]


def rows_lacking() -> UsageError:
    """Error for a subject who lives by the log, but not in vault.db."""
    return UsageError(
        "the subject has living grants whose rows are missing from vault.db",
        next="restore a backup that has them; or enrol with --existing replace, or shred the subject",
    )
