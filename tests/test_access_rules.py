"""Principals, tokens, roles, and the gate's rules in their order."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.access import session
from facekeep.access.gate import Ask, check_terms
from facekeep.access.principals import Principal, new_principal, read_token
from facekeep.access.roles import ALLOWED, Action, Role, allowed
from facekeep.errors import FacekeepError, FormatError, NotAllowed, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.terms import Scope, Terms
from facekeep.vault import Role as PublicRole
from vaultlab import DAY, NOW, VERIFY, Lab, core, reason

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TERMS = Terms(Scope.VERIFY, 100, 200, ("DE", "EU"), 1, 4, bytes(32))
ASK = Ask(Action.VERIFY, Scope.VERIFY, "m", 4, "l2", "FR")


# -- tokens


def test_a_token_is_shown_once_and_kept_as_a_hash() -> None:
    principal, token = new_principal("door", frozenset({Role.SERVICE}), NOW)
    assert re.fullmatch(r"fkt1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", token)
    assert read_token(token) == (principal.id, principal.token_hash)
    secret = base64.urlsafe_b64decode(token.split(".")[2] + "=")
    assert principal.token_hash == hashlib.sha256(secret).digest()
    assert token.split(".")[2] not in repr(principal)
    assert Principal.from_record(principal.to_record()) == principal


@settings(deadline=None)
@given(st.integers(0, 63))
def test_no_token_has_a_second_spelling(offset: int) -> None:
    """43 characters hold 258 bits: the last two must be zero, or four spellings would be one token."""
    _, token = new_principal("door", frozenset({Role.SERVICE}), NOW)
    other = token[:-1] + ALPHABET[offset]
    if other == token:
        assert read_token(other) == read_token(token)
        return
    try:
        assert read_token(other)[1] != read_token(token)[1]
    except NotAllowed:
        assert ALPHABET.index(other[-1]) % 4


@settings(deadline=None)
@given(st.text(max_size=80) | st.from_regex(r"fkt1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", fullmatch=True))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        identity, hashed = read_token(text)
    except NotAllowed:
        return
    assert (len(identity), len(hashed)) == (8, 32)


@pytest.mark.parametrize(("label", "roles"), [("", {"dpo"}), (" ", {"dpo"}), ("a\nb", {"dpo"}), ("x", set())])
def test_a_principal_needs_a_label_and_a_role(label: str, roles: set[str]) -> None:
    with pytest.raises(UsageError):
        new_principal(label, frozenset(Role(role) for role in roles), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"roles": "dpo"},
        {"roles": ["root"]},
        {"roles": None},
        {"created_at_ms": "x"},
        {"label": 1},
        {"id": "00"},
        {"id": None},
        {"token": "zz"},
    ],
)
def test_a_record_of_another_form_is_refused(change: JsonObject) -> None:
    principal, _ = new_principal("door", frozenset({Role.DPO}), NOW)
    with pytest.raises(FormatError):
        Principal.from_record(principal.to_record() | change)


# -- roles


def test_every_action_is_somebodys_and_none_is_everybodys() -> None:
    granted = set().union(*ALLOWED.values())
    assert granted == set(Action)
    assert not frozenset.intersection(*ALLOWED.values())
    assert set(ALLOWED) == set(Role) == set(PublicRole)


@pytest.mark.parametrize(
    ("role", "action"),
    [
        (Role.SERVICE, Action.SHRED),
        (Role.SERVICE, Action.WITHDRAW),
        (Role.SERVICE, Action.ENROLL),
        (Role.SERVICE, Action.GRANT),
        (Role.SERVICE, Action.RENEW),
        (Role.REGISTRAR, Action.VERIFY),
        (Role.REGISTRAR, Action.IDENTIFY),
        (Role.REGISTRAR, Action.SHRED),
        (Role.REGISTRAR, Action.SUBJECTS),
        (Role.REGISTRAR, Action.LOG),
        (Role.SERVICE, Action.SUBJECTS),
        (Role.SERVICE, Action.PRINCIPALS),
        (Role.OPERATOR, Action.VERIFY),
        (Role.OPERATOR, Action.IDENTIFY),
        (Role.AUDITOR, Action.SUBJECTS),
        (Role.AUDITOR, Action.VERIFY),
        (Role.AUDITOR, Action.SHRED),
        (Role.DPO, Action.VERIFY),
        (Role.DPO, Action.IDENTIFY),
        (Role.DPO, Action.ENROLL),
        (Role.DPO, Action.PRINCIPALS),
    ],
)
def test_the_powers_that_are_kept_apart(role: Role, action: Action) -> None:
    assert action not in allowed(frozenset({role}))


def test_whoever_enrols_may_withdraw() -> None:
    """To enrol somebody again whose rows were lost withdraws the lost grants."""
    assert {role for role in Role if Action.ENROLL in ALLOWED[role]} <= {
        role for role in Role if Action.WITHDRAW in ALLOWED[role]
    }


def test_roles_add_up_and_nothing_comes_from_none() -> None:
    assert allowed(frozenset()) == frozenset()
    assert allowed(frozenset({Role.SERVICE, Role.DPO})) == ALLOWED[Role.SERVICE] | ALLOWED[Role.DPO]


# -- the rules on terms


@pytest.mark.parametrize(
    ("terms", "ask", "now", "expected"),
    [
        (TERMS, ASK, 100, Reason.OK),
        (TERMS, ASK, 199, Reason.OK),
        (TERMS, ASK, 99, Reason.NOT_BEFORE),
        (TERMS, ASK, 200, Reason.EXPIRED),
        (TERMS, ASK._replace(region="CH"), 150, Reason.REGION),
        (TERMS, ASK._replace(region="DE"), 150, Reason.OK),
        (replace(TERMS, regions=("DE",)), ASK, 150, Reason.REGION),
        (TERMS, ASK._replace(model="n"), 150, Reason.MODEL),
        (TERMS, ASK._replace(dimension=3), 150, Reason.MODEL),
        (TERMS, ASK._replace(metric="cosine"), 150, Reason.MODEL),
        (TERMS, ASK._replace(scope=Scope.IDENTIFY), 150, Reason.SCOPE),
        (TERMS, ASK._replace(model="n", region="CH", scope=Scope.SHARE), 50, Reason.SCOPE),
        (TERMS, ASK._replace(model="n", region="CH"), 50, Reason.NOT_BEFORE),
        (TERMS, ASK._replace(model="n", region="CH"), 250, Reason.EXPIRED),
        (TERMS, ASK._replace(model="n", region="CH"), 150, Reason.REGION),
    ],
)
def test_each_rule_has_its_reason_and_the_first_counts(
    terms: Terms, ask: Ask, now: int, expected: Reason
) -> None:
    assert check_terms(terms, "m", ask, now) is expected


def test_the_list_of_reasons_is_closed() -> None:
    assert {each.value for each in Reason} == {
        "ok", "principal_unknown", "principal_revoked", "role", "subject_unknown", "scope", "terms",
        "not_before", "expired", "withdrawn", "destroyed", "region", "model", "clock", "integrity",
        "unavailable", "policy", "rate",
    }  # fmt: skip


def test_every_denial_and_every_answer_is_in_the_log(tmp_path: Path) -> None:
    """Promise 3: as many decisions stand in the log as were asked for, each with its reason."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice", scopes=[VERIFY], days=1)
    with lab.open() as vault:
        before = core(vault).log.head().size
        asked = [reason(vault, "alice"), reason(vault, "nobody"), reason(vault, "alice", region="CH")]
        lab.clock.ms += 2 * DAY
        asked.append(reason(vault, "alice"))
        with pytest.raises(FacekeepError):
            reason(vault, "")
        written = [entry for _, entry in core(vault).log.entries(before, core(vault).log.head().size)]
        assert asked == ["ok", "subject_unknown", "region", "expired"]
        assert [entry["reason"] for entry in written] == asked
        assert [entry["allow"] for entry in written] == [True, False, False, False]


def test_a_refusal_says_in_words_what_the_role_may_not(tmp_path: Path) -> None:
    assert set(session._WORDS) == set(Action)
    lab = Lab(tmp_path).create()
    with (
        lab.open(lab.add_principal(Role.SERVICE)) as vault,
        pytest.raises(NotAllowed, match=r"^the role service may not list subjects$"),
    ):
        list(vault.subjects())
    with (
        lab.open(lab.add_principal(Role.SERVICE, Role.AUDITOR)) as vault,
        pytest.raises(NotAllowed, match=r"^the roles auditor and service may not change the settings$"),
    ):
        vault.change_settings(region="FR")
