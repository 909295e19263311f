"""The gate: one function decides, and only it makes Permits (DESIGN: the gate).

The rules are plain and in order; each has its own reason code. Whatever goes wrong on the way is a denial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from facekeep.access.core import Core, Proven, View
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.auditlog.prints import grant_print
from facekeep.errors import (
    Denied,
    FacekeepError,
    FormatError,
    IntegrityError,
    SettingsChanged,
    SlotDead,
    Unavailable,
    UsageError,
    VaultClosed,
)
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.terms import Scope, Terms, covering_regions
from facekeep.keys.tree import TreeStale
from facekeep.limits import LIMITS
from facekeep.sealing.permit import Permit, mint
from facekeep.store.vaultdb import GrantRow
from facekeep.wiping import wipe

#: reasons that are the vault's, not the question's (SPEC §7): what the files would have said is not known
_OF_THE_VAULT: Final = frozenset((Reason.TERMS, Reason.CLOCK, Reason.INTEGRITY, Reason.UNAVAILABLE))

#: reasons that a tree may give that was swapped meanwhile
_OF_A_TREE: Final = frozenset(
    (
        Reason.PRINCIPAL_UNKNOWN,
        Reason.PRINCIPAL_REVOKED,
        Reason.SUBJECT_UNKNOWN,
        Reason.DESTROYED,
        Reason.INTEGRITY,
        Reason.UNAVAILABLE,
    )
)


class Ask(NamedTuple):
    """What is asked of the gate: an action on one subject's templates of one model, in one region.

    ``dimension`` and ``metric`` are what the model is said to be: what was enrolled decides.
    """

    action: Action
    scope: Scope
    model: str
    dimension: int
    metric: str
    region: str


class Verdict(NamedTuple):
    """The gate's answer. With reason OK there are a permit, a row, its terms and its encryption key."""

    reason: Reason
    view: View
    now_ms: int
    tag: bytes | None = None
    row: GrantRow | None = None
    terms: Terms | None = None
    key: bytes = b""
    permit: Permit | None = None


def evaluate(
    core: Core, session: Session, ask: Ask, subject: bytes, view: View, *, again: bool = True
) -> Verdict:
    """Decide on one subject (1:1) in one state of the vault. ``subject`` is the id's UTF-8.

    ``again`` looks at the files now, so that a replaced one becomes the reason; the append does it anyway.
    """
    now = core.clock.now_ms()
    tag = None
    try:
        reason = admit(core, session, view, ask.action, ask.region, now)
        if reason is not Reason.OK:
            return Verdict(reason, view, now)
        if again:
            core.check_files()
        tag, rows = core.lookup(view, subject)
        if tag is None:
            return Verdict(Reason.SUBJECT_UNKNOWN, view, now)
        return _on_rows(core, view, ask, now, tag, rows)
    except Exception as error:  # noqa: BLE001 - promise 5: whatever goes wrong is a refusal, and recorded
        return Verdict(reason_of(error), view, now, tag)


@contextlib.contextmanager
def denying(core: Core, denial: Callable[[Reason, int], JsonObject]) -> Iterator[None]:
    """Have nothing go wrong inside without a denial in the log, and no exception but ours leave.

    ``denial`` makes the entry of a reason and a time. What goes wrong is Unavailable, in the words of ours,
    but for a FormatError: what stands in a file is no caller's business. What cannot be recorded, since it is
    the log that fails, is raised all the same.
    """
    try:
        yield
    except SettingsChanged:
        with denying(core, denial):
            core.reopen()
        raise  # to be asked again
    except (Denied, Unavailable, UsageError, VaultClosed):
        raise
    except Exception as error:
        decision = _recorded(core, denial, reason_of(error))
        if isinstance(error, FormatError) or not isinstance(error, FacekeepError):
            said = "unavailable" if decision else f"nothing was answered ({type(error).__name__})"
            raise Unavailable(said, decision=decision) from None
        raise Unavailable(str(error), next=error.next, decision=decision) from error


def reason_of(error: Exception) -> Reason:
    """Return the reason that an error is logged with: a swap under way damages nothing."""
    damaged = isinstance(error, IntegrityError) and not isinstance(error, TreeStale)
    return Reason.INTEGRITY if damaged else Reason.UNAVAILABLE


def is_doubtful(core: Core, view: View, reason: Reason) -> bool:
    """Whether a swap may be why somebody would be refused: it is looked at again (SPEC §7)."""
    return reason in _OF_A_TREE and core.is_past(view)


def refusal(reason: Reason, decision: str | None = None) -> Denied | Unavailable:
    """Return what is raised for a reason: nothing but whose it is leaves, the question's or the vault's."""
    return (Unavailable if reason in _OF_THE_VAULT else Denied)(decision=decision)


def _recorded(core: Core, denial: Callable[[Reason, int], JsonObject], reason: Reason) -> str | None:
    """Record a denial in whatever state the log is; return the decision's id, None where that fails."""
    try:
        entry = denial(reason, core.clock.now_ms())
        seq = core.log.head().control_seq
        index = core.log.decide(entry, control_seq=seq, valid_until_ms=2**53, allow=False)
    except Exception:  # noqa: BLE001 - the first failure is the one to tell
        return None
    return decision_id(index, entry)


def decision_id(index: int, entry: JsonObject) -> str:
    """Return the public name of a decision: its log index and the start of its nonce."""
    return f"{index}-{str(entry['nonce'])[:8]}"


def admit(core: Core, session: Session, view: View, action: Action, region: str, now_ms: int) -> Reason:
    """Rules that concern no subject: the principal, the role, the clock, where it is that they ask."""
    reason = session.check(view, action)
    if reason is not Reason.OK:
        return reason
    if view.pending.sought:  # somebody who asked for an erasure cannot be found: it may be anybody
        return Reason.UNAVAILABLE
    if now_ms < view.head.high_ms - LIMITS.clock_slack_ms or not core.clock.is_steady:
        return Reason.CLOCK
    return Reason.OK if region in core.settings.all_regions else Reason.REGION


def _on_rows(core: Core, view: View, ask: Ask, now: int, tag: bytes, rows: list[GrantRow]) -> Verdict:
    refusal = Verdict(Reason.SCOPE, view, now, tag)
    for row in rows:
        if view.kind_of(row.slot) != ask.scope:
            continue
        verdict = _on_row(core, view, ask, now, row)
        if verdict.reason is Reason.OK:
            return verdict
        refusal = verdict
    return refusal


def _on_row(core: Core, view: View, ask: Ask, now: int, row: GrantRow) -> Verdict:
    def refuse(reason: Reason) -> Verdict:
        return Verdict(reason, view, now, row.tag, row)

    if view.pending.destroying(row.slot):
        return refuse(Reason.WITHDRAWN)
    if view.pending.granting(row.slot):
        return refuse(Reason.SCOPE)
    try:
        slot_key = core.slot_key(view, row.slot)
    except SlotDead:
        return refuse(Reason.DESTROYED)
    except IntegrityError:
        return refuse(Reason.INTEGRITY)
    try:
        return _under_key(core, view, ask, now, row, slot_key)
    except IntegrityError:
        return refuse(Reason.INTEGRITY)
    finally:
        wipe(slot_key)


def _under_key(core: Core, view: View, ask: Ask, now: int, row: GrantRow, slot_key: bytes) -> Verdict:
    key = core.sealer.row_key(slot_key, row)
    proven = _prove(core, view, row)
    terms = Terms.unpack(row.terms) if proven is None else proven.terms
    reason = check_terms(terms, row.model, ask, now)
    if reason is not Reason.OK and not _authentic(core, slot_key, row):
        reason = Reason.TERMS
    elif proven is None:
        reason = Reason.INTEGRITY
    if proven is None or reason is not Reason.OK:
        wipe(key)
        return Verdict(reason, view, now, row.tag, row)
    return Verdict(Reason.OK, view, now, row.tag, row, terms, key, proven.permit)


def _prove(core: Core, view: View, row: GrantRow) -> Proven | None:
    """Hold a row against the log, once in a view; None if the log gave its slot to another one."""
    known = view.proven.get(row.slot)
    if known is not None and known.row is row:
        return known
    terms = Terms.unpack(row.terms)
    if not is_logged(core, row):
        return None
    view.proven[row.slot] = proven = Proven(row, terms, mint(frozenset((row.slot,))))
    return proven


def check_terms(terms: Terms, model: str, ask: Ask, now_ms: int) -> Reason:
    """Rules on a grant's own terms; their authenticity is proven by the opening."""
    if terms.scope is not ask.scope:
        return Reason.SCOPE
    if now_ms < terms.not_before_ms:
        return Reason.NOT_BEFORE
    if now_ms >= terms.expires_at_ms:
        return Reason.EXPIRED
    if covering_regions(ask.region).isdisjoint(terms.regions):
        return Reason.REGION
    same = (model, terms.dimension, terms.metric) == (ask.model, ask.dimension, ask.metric)
    return Reason.OK if same else Reason.MODEL


def is_logged(core: Core, row: GrantRow) -> bool:
    """Whether a row is the grant that the log gave its slot to: an older log's key opens it just as well."""
    own = grant_print(row.grant_id + row.tag + row.terms, row.model, row.commitment)
    return own == core.logged(row.slot)


def _authentic(core: Core, key: bytes, row: GrantRow) -> bool:
    """Tell a refusal on true terms from one on edited terms, for the log's sake."""
    try:
        core.sealer.open_record(key, row)
    except FacekeepError:
        return False
    return True


def permit_reseal(slots: Iterable[int]) -> Permit:
    """Permit to open the templates in these slots for sealing them under a consented new grant.

    Only for an operation that has already logged ``from`` in its grant entry.
    """
    return mint(frozenset(slots))


def permit_gallery(slots: frozenset[int]) -> Permit:
    """Permit for grants that ``formats.terms.valid_now`` and the pending sets have passed."""
    return mint(slots)
