"""A session alone, on a core made of plain values: whom a token leads to, why not, and what it may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest

from facekeep.access.core import Core, View
from facekeep.access.principals import Principal, new_principal, read_token, token_mark
from facekeep.access.roles import ALLOWED, Action, Role
from facekeep.access.session import Session, authenticate
from facekeep.auditlog.prints import LoggedPrincipal
from facekeep.errors import FacekeepError, IntegrityError, NotAllowed, SlotDead, StoreError, Unavailable
from facekeep.formats.canonical import JsonObject, JsonValue
from facekeep.formats.entryrules import Reason
from facekeep.store.keysrows import PrincipalRow

VAULT, SLOT, COMMITMENT = bytes(range(16)), 65_540, bytes(32)
ERASING = {"shred", "withdraw", "principals", "check", "status", "restore"}


@dataclass
class Inside:
    """What a session needs of a core; ``fails`` are raised where a slot's key is asked for."""

    row: PrincipalRow | None
    record: JsonObject
    logged_principals: list[LoggedPrincipal]
    destroying: set[int] = field(default_factory=set)
    granting: set[int] = field(default_factory=set)
    fails: dict[int, Exception] = field(default_factory=dict)
    control: list[JsonObject] = field(default_factory=list)
    impaired: FacekeepError | None = None
    seq: int = 5
    looked: int = 0
    vault_id: bytes = VAULT

    def __post_init__(self) -> None:
        self.keys = self.sealer = self.ledger = self.log = self

    def view(self) -> View:
        pending = SimpleNamespace(
            destroying=self.destroying.__contains__, granting=self.granting.__contains__
        )
        return cast("View", SimpleNamespace(head=SimpleNamespace(control_seq=self.seq), pending=pending))

    def principal_get(self, _identity: bytes) -> PrincipalRow | None:
        self.looked += 1
        return self.row

    def slot_key(self, _view: View, slot: int) -> bytes:
        if slot in self.fails:
            raise self.fails[slot]
        return bytes(32)

    def open_principal(self, *_: object) -> JsonObject:
        return self.record

    def logged(self, slot: int) -> bytes | None:
        return next((each.print() for each in self.logged_principals if each.slot == slot), None)

    def principals(self) -> list[LoggedPrincipal]:
        return self.logged_principals

    def control_since(self, index: int) -> list[tuple[int, JsonObject]]:
        assert index == 0
        return list(enumerate(self.control))

    def require_whole(self) -> None:
        if self.impaired:
            raise self.impaired


@dataclass
class Door:
    """A principal, its token, and the core that knows both."""

    principal: Principal
    token: str
    inside: Inside

    @property
    def core(self) -> Core:
        return cast("Core", self.inside)

    def ask(self) -> tuple[Principal | None, Reason]:
        return authenticate(self.core, self.inside.view(), *read_token(self.token))

    def at(self, slot: int, roles: Sequence[str] | None = None) -> LoggedPrincipal:
        mark = token_mark(VAULT, slot, self.principal.token_hash)
        return LoggedPrincipal(
            self.principal.id, slot, mark, COMMITMENT, tuple(roles or sorted(self.principal.roles))
        )


def door(*roles: Role) -> Door:
    principal, token = new_principal("door", frozenset(roles or (Role.SERVICE,)), 7)
    mark = token_mark(VAULT, SLOT, principal.token_hash)
    row = PrincipalRow(SLOT, principal.id, mark, COMMITMENT, b"sealed")
    made = Door(principal, token, Inside(row, principal.to_record(), []))
    made.inside.logged_principals.append(made.at(SLOT))
    return made


def test_a_token_leads_to_its_principal_by_the_row_and_without_it_by_the_log() -> None:
    asked = door()
    assert asked.ask() == (asked.principal, Reason.OK)
    asked.inside.row = None
    nameless = replace(asked.principal, label="", created_at_ms=0)
    assert asked.ask() == (nameless, Reason.OK)


@pytest.mark.parametrize("has_row", [True, False])
def test_another_secret_under_the_same_id_is_nobody(has_row: bool) -> None:
    asked, other = door(), door()
    if not has_row:
        asked.inside.row = None
    _, secret = read_token(other.token)
    found = authenticate(asked.core, asked.inside.view(), asked.principal.id, secret)
    assert found == (None, Reason.PRINCIPAL_UNKNOWN)


def test_a_row_whose_record_or_whose_mark_is_of_another_token_is_nobody() -> None:
    asked, other = door(), door()
    view = asked.inside.view()
    hash_of_other = other.principal.token_hash
    asked.inside.record = replace(asked.principal, token_hash=hash_of_other).to_record()
    assert asked.ask() == (None, Reason.PRINCIPAL_UNKNOWN)
    assert authenticate(asked.core, view, asked.principal.id, hash_of_other)[0] is None


@pytest.mark.parametrize("has_row", [True, False])
@pytest.mark.parametrize(
    ("state", "reason"),
    [("destroying", Reason.PRINCIPAL_REVOKED), ("granting", Reason.PRINCIPAL_UNKNOWN)],
)
def test_what_is_only_announced_is_revoked_already_and_not_known_yet(
    has_row: bool, state: str, reason: Reason
) -> None:
    asked = door()
    getattr(asked.inside, state).add(SLOT)
    if not has_row:
        asked.inside.row = None
    assert asked.ask() == (None, reason)


@pytest.mark.parametrize("has_row", [True, False])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SlotDead("x"), Reason.PRINCIPAL_REVOKED),
        (StoreError("x"), Reason.UNAVAILABLE),
    ],
)
def test_a_slot_without_a_key_says_why(has_row: bool, error: Exception, reason: Reason) -> None:
    asked = door()
    asked.inside.fails[SLOT] = error
    if not has_row:
        asked.inside.row = None
    assert asked.ask() == (None, reason)


def _destroy(*spans: list[JsonValue]) -> JsonObject:
    return {"type": "destroy", "slots": list(spans)}


@pytest.mark.parametrize(
    ("entry", "lives"),
    [
        (None, True),
        (_destroy([SLOT, 1]), False),
        (_destroy([SLOT - 1, 2]), False),
        (_destroy([SLOT - 1, 1], [SLOT + 1, 1]), True),
        ({"type": "grant", "slots": [[SLOT, 1]]}, True),
    ],
)
def test_under_a_damaged_node_the_log_says_who_was_destroyed(entry: JsonObject | None, lives: bool) -> None:
    asked = door()
    asked.inside.fails[SLOT] = IntegrityError("damaged")
    asked.inside.control = [entry] if entry else []
    found, reason = asked.ask()
    assert (found is not None) is lives
    assert reason is (Reason.OK if lives else Reason.PRINCIPAL_REVOKED)


def test_a_log_that_cannot_be_read_is_no_answer_about_the_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, reason in ((StoreError("x"), Reason.UNAVAILABLE), (IntegrityError("x"), Reason.INTEGRITY)):
        asked = door()

        def fails(error: Exception = error) -> None:
            raise error

        asked.inside.row = None
        monkeypatch.setattr(asked.inside, "principals", fails)
        assert asked.ask() == (None, reason)


def test_of_several_slots_of_one_id_the_last_that_lives_is_asked() -> None:
    asked = door()
    asked.inside.row = None
    asked.inside.logged_principals[:] = [
        asked.at(SLOT, ["auditor"]),
        asked.at(SLOT + 1, ["dpo"]),
        asked.at(SLOT + 2, ["operator"]),
    ]
    asked.inside.fails[SLOT + 2] = SlotDead("x")
    found, _ = asked.ask()
    assert found is not None
    assert found.roles == {Role.DPO}


def test_principals_of_other_ids_are_not_asked() -> None:
    asked, other = door(), door()
    asked.inside.row = None
    asked.inside.logged_principals[:] = [other.at(SLOT)]
    assert asked.ask() == (None, Reason.PRINCIPAL_UNKNOWN)
    asked.inside.logged_principals[:] = [asked.at(SLOT), other.at(SLOT + 1)]
    assert asked.ask()[1] is Reason.OK


def test_a_row_with_more_roles_than_the_log_says_gives_those_of_the_log() -> None:
    asked = door()
    asked.inside.record = replace(asked.principal, roles=frozenset(Role)).to_record()
    found, reason = asked.ask()
    assert reason is Reason.OK
    assert found is not None
    assert found.roles == {Role.SERVICE}


def test_a_record_of_another_id_gives_what_the_log_says() -> None:
    asked = door()
    asked.inside.record = replace(asked.principal, id=bytes(8), label="another").to_record()
    found, reason = asked.ask()
    assert (found and found.id, found and found.label, reason) == (asked.principal.id, "", Reason.OK)


# -- what a session may do


def test_a_session_knows_whose_it_is() -> None:
    asked = door(Role.OPERATOR, Role.AUDITOR)
    session = Session(asked.core, asked.token)
    assert (session.by, session.label) == (asked.principal.id.hex(), "door")
    assert session.roles == ("auditor", "operator")


@pytest.mark.parametrize("role", list(Role))
def test_the_limits_on_matching_bind_whoever_may_not_change_them(role: Role) -> None:
    asked = door(role)
    assert Session(asked.core, asked.token).is_bound is (role is not Role.OPERATOR)


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_the_table_says_and_is_told_what_not(role: Role) -> None:
    asked = door(role)
    session = Session(asked.core, asked.token)
    for action in Action:
        if action in ALLOWED[role]:
            assert session.check(asked.inside.view(), action) is Reason.OK
            session.require(action)
            continue
        assert session.check(asked.inside.view(), action) is Reason.ROLE
        with pytest.raises(NotAllowed, match=rf"^the role {role} may not [a-z]+ .*"):
            session.require(action)


def test_every_role_is_named_where_there_are_several() -> None:
    asked = door(Role.SERVICE, Role.AUDITOR)
    with pytest.raises(NotAllowed, match=r"^the roles auditor and service may not shred subjects$"):
        Session(asked.core, asked.token).require(Action.SHRED)


def test_a_vault_that_is_not_whole_is_asked_for_erasures_and_what_helps_alone() -> None:
    asked = door(Role.OPERATOR, Role.DPO, Role.SERVICE, Role.REGISTRAR, Role.AUDITOR)
    session = Session(asked.core, asked.token)
    asked.inside.impaired = Unavailable("keys.db is away")
    for action in Action:
        expected = Reason.OK if action.value in ERASING else Reason.UNAVAILABLE
        assert session.check(asked.inside.view(), action) is expected
    with pytest.raises(Unavailable, match=r"keys\.db is away"):
        session.require(Action.VERIFY)


def test_a_vault_that_became_whole_meanwhile_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = door()
    session = Session(asked.core, asked.token)
    asked.inside.impaired = Unavailable("keys.db is away")
    monkeypatch.setattr(asked.inside, "require_whole", lambda: None)
    with pytest.raises(StoreError, match="a moment ago"):
        session.require(Action.VERIFY)


def test_whoever_is_unknown_gets_no_session() -> None:
    asked = door()
    asked.inside.logged_principals.clear()
    with pytest.raises(NotAllowed, match="unknown or revoked"):
        Session(asked.core, asked.token)


def test_a_session_that_cannot_be_begun_now_does_not_call_the_principal_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = door()
    asked.inside.fails[SLOT] = StoreError("x")
    with pytest.raises(StoreError, match="cannot be told now"):
        Session(asked.core, asked.token)

    def altered(_slot: int) -> None:
        raise IntegrityError("log.db was altered")

    asked.inside.fails[SLOT] = IntegrityError("x")
    monkeypatch.setattr(asked.inside, "logged", altered)
    monkeypatch.setattr(asked.inside, "principals", lambda: altered(0))
    with pytest.raises(IntegrityError, match=r"log\.db was altered"):
        Session(asked.core, asked.token)
    asked.inside.row = None
    with pytest.raises(NotAllowed, match="unknown or revoked"):
        Session(asked.core, asked.token)


def test_a_session_is_asked_again_when_the_log_moves_and_not_before() -> None:
    asked = door()
    session = Session(asked.core, asked.token)
    looked = asked.inside.looked
    view = asked.inside.view()
    assert session.check(view, Action.VERIFY) is Reason.OK
    asked.inside.destroying.add(SLOT)
    assert session.check(view, Action.VERIFY) is Reason.OK
    assert asked.inside.looked == looked
    asked.inside.seq += 1
    assert session.check(asked.inside.view(), Action.VERIFY) is Reason.PRINCIPAL_REVOKED
    assert session.roles == ()
    assert session.label == ""
    assert session.is_bound
    assert asked.inside.looked == looked + 1
    with pytest.raises(NotAllowed, match="unknown or revoked"):
        session.require_active()
    with pytest.raises(NotAllowed, match="unknown or revoked"):
        session.require(Action.VERIFY)


def test_what_could_not_be_told_is_asked_again_at_once() -> None:
    asked = door()
    session = Session(asked.core, asked.token)
    asked.inside.seq += 1
    asked.inside.fails[SLOT] = StoreError("x")
    assert session.check(asked.inside.view(), Action.VERIFY) is Reason.UNAVAILABLE
    with pytest.raises(StoreError, match="cannot be told now"):
        session.require_active()
    asked.inside.fails.clear()
    assert session.check(asked.inside.view(), Action.VERIFY) is Reason.OK


def test_a_view_that_was_just_taken_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = door()
    session = Session(asked.core, asked.token)
    asked.inside.seq += 1
    asked.inside.destroying.add(SLOT)
    view = asked.inside.view()
    monkeypatch.setattr(asked.inside, "view", lambda: pytest.fail("another view was taken"))
    with pytest.raises(NotAllowed):
        session.require(Action.VERIFY, view)
    with pytest.raises(NotAllowed):
        session.require_active(view)


def test_the_same_token_on_a_vault_that_was_opened_again_is_asked_anew() -> None:
    asked = door()
    session = Session(asked.core, asked.token)
    again = replace(asked.inside, destroying={SLOT})
    moved = session.on(cast("Core", again))
    assert moved.label == ""
    assert moved.check(again.view(), Action.VERIFY) is Reason.PRINCIPAL_REVOKED
    assert session.check(asked.inside.view(), Action.VERIFY) is Reason.OK
