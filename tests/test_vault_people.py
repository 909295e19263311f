"""Principals, roles, tokens, and the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekeep.access.roles import ALLOWED, Action
from facekeep.errors import ClockError, Denied, FacekeepError, NotAllowed, UsageError
from facekeep.vault import Role, Scope, Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    NOW,
    THRESHOLD,
    VERIFY,
    YEAR_2036,
    Lab,
    core,
    face,
    identify,
    identify_reason,
    matches,
    reason,
    slots,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    return lab


def _actions(lab: Lab) -> dict[Action, Callable[[Vault], object]]:
    """Each action of the facade; all of them would succeed or be a usage error for who may do them."""
    return {
        Action.VERIFY: lambda vault: vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD),
        Action.IDENTIFY: lambda vault: vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD),
        Action.ENROLL: lambda vault: vault.enroll_many([lab.enrolment("alice")], existing="replace"),
        Action.GRANT: lambda vault: vault.grant("nobody", lab.consent(Scope.SHARE)),
        Action.RENEW: lambda vault: vault.renew("alice", lab.consent(VERIFY)),
        Action.WITHDRAW: lambda vault: vault.withdraw("nobody", [VERIFY]),
        Action.SHRED: lambda vault: vault.shred("nobody"),
        Action.SUBJECTS: lambda vault: list(vault.subjects()),
        Action.BACKUP: lambda vault: vault.backup(lab.base / "vault.toml" / "impossible"),
        Action.RESTORE: lambda vault: vault.repair_index(),
        Action.CHECK: lambda vault: vault.check(),
        Action.STATUS: lambda vault: vault.status(),
        Action.PRINCIPALS: lambda vault: vault.principals(),
        Action.CLOCK: lambda vault: vault.accept_clock(),
    }


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_the_table_says_and_nothing_else(lab: Lab, role: Role) -> None:
    token = lab.add_principal(role)
    with lab.open(token) as vault:
        assert vault.whoami()[2] == (role.value,)
        for action, act in _actions(lab).items():
            size = core(vault).log.head().size
            if action in ALLOWED[role]:
                try:
                    act(vault)
                except (NotAllowed, Denied):
                    pytest.fail(f"{role} may {action}")
                except FacekeepError:
                    pass
            elif action in (Action.VERIFY, Action.IDENTIFY):
                with pytest.raises(Denied) as caught:
                    act(vault)
                entry = core(vault).log.entry(int(str(caught.value.decision).split("-")[0]))
                assert entry["reason"] == "role"
            else:
                with pytest.raises(NotAllowed):
                    act(vault)
                assert core(vault).log.head().size == size
    lab.clean()


def test_a_service_cannot_shred_and_a_dpo_cannot_verify(lab: Lab) -> None:
    service, dpo = lab.add_principal(Role.SERVICE), lab.add_principal(Role.DPO)
    with lab.open(service) as vault:
        with pytest.raises(NotAllowed):
            vault.shred("alice")
        assert matches(vault, "alice")
    with lab.open(dpo) as vault:
        with pytest.raises(Denied):
            matches(vault, "alice")
        with pytest.raises(Denied):
            vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD)
        vault.shred("alice")
    lab.clean()


def test_a_token_is_what_was_shown_and_nothing_like_it(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other").create()
    _, identity, secret = lab.token.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spelled = secret[:-1] + last[last.index(secret[-1]) ^ 1]
    wrong = [
        other.token,
        f"fkt1.{identity}.{spelled}",
        f"fkt1.{identity}.{secret}=",
        f"fkt1.{identity.upper()}.{secret}" if identity.upper() != identity else "fkt1",
        f"fkt2.{identity}.{secret}",
        f"fkt1.{identity}.{'A' * 43}",
        f"fkt1.{'0' * 16}.{secret}",
        f"fkt1.{identity}.{secret.replace(secret[0], '+', 1)}",
        "",
        secret,
    ]
    for token in wrong:
        with pytest.raises(NotAllowed) as caught:
            Vault.open(lab.path, token=token, clock=lab.clock)
        assert secret not in str(caught.value)
    lab.do(lambda vault: matches(vault, "alice"), f"  {lab.token}\n")


def test_principals_are_listed_without_their_tokens(lab: Lab) -> None:
    with lab.open() as vault:
        identity, token = vault.add_principal("door of hall 3", [Role.SERVICE])
        listed = {each.id: each for each in vault.principals()}
        assert len(listed) == 2
        assert listed[identity].label == "door of hall 3"
        assert listed[identity].roles == ("service",)
        assert listed[identity].state == "active"
        assert token.split(".")[2] not in repr(listed)
        for label, roles in (("", [Role.SERVICE]), ("x\n", [Role.SERVICE]), ("x", [])):
            with pytest.raises(UsageError):
                vault.add_principal(label, roles)
    lab.clean()


def test_a_revoked_principal_is_out_at_once_in_a_running_process(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    identity = token.split(".")[1]
    with lab.open(token) as service, lab.open() as operator:
        gallery = service.gallery(model=MODEL)
        assert matches(service, "alice")
        assert operator.revoke_principal(identity) > 0
        with pytest.raises(Denied):
            matches(service, "alice")
        with pytest.raises(Denied):
            gallery.search(face("alice"), THRESHOLD, 1)
        with pytest.raises(NotAllowed):
            service.enroll_many([lab.enrolment("bob")])
        with pytest.raises(NotAllowed):
            service.whoami()
        gallery.close()
        with pytest.raises(UsageError):
            operator.revoke_principal(identity)
    with pytest.raises(NotAllowed):
        lab.do(lambda vault: vault.whoami(), token)
    lab.clean()


def test_the_last_operator_stays(lab: Lab) -> None:
    with lab.open() as vault:
        own = vault.whoami()[0]
        with pytest.raises(UsageError):
            vault.revoke_principal(own)
        for wrong in ("", "zz", "00" * 8, "00" * 9):
            with pytest.raises(UsageError):
                vault.revoke_principal(wrong)
        vault.add_principal("second", [Role.OPERATOR])
        vault.revoke_principal(own)
        with pytest.raises(NotAllowed):
            vault.status()


def test_the_clock_set_to_2036_and_back_destroys_nothing(lab: Lab) -> None:
    with lab.open() as vault:
        assert identify(vault, "alice") == ["alice"]
        lab.clock.ms = YEAR_2036
        assert reason(vault, "alice") == "expired"
        assert identify(vault, "alice") == []
        lab.clock.ms = NOW + DAY
        assert reason(vault, "alice") == "clock"
        assert identify_reason(vault, "alice") == "clock"
        with pytest.raises(ClockError):
            vault.enroll_many([lab.enrolment("bob")])
        assert len(slots(vault, "alice")) == 2
        assert vault.accept_clock() == (NOW + DAY, YEAR_2036)
        assert reason(vault, "alice") == "ok"
        assert identify(vault, "alice") == ["alice"]
        with pytest.raises(UsageError):
            vault.accept_clock()
        vault.enroll_many([lab.enrolment("bob")])
    lab.clean()


def test_an_operation_cut_off_in_2036_does_not_lock_the_vault_up(lab: Lab) -> None:
    lab.clock.ms = YEAR_2036
    lab.crash(lambda vault: vault.enroll_many([lab.enrolment("bob")]), "grant.announced")
    lab.clock.ms = NOW + DAY
    with lab.open() as vault:
        assert reason(vault, "alice") == "clock"
        vault.accept_clock()
        assert reason(vault, "alice") == "ok"
        vault.enroll_many([lab.enrolment("bob")])
        assert matches(vault, "bob")
    lab.clean()


def test_a_clock_a_little_behind_is_no_matter(lab: Lab) -> None:
    lab.clock.ms += DAY
    with lab.open() as vault:
        assert matches(vault, "alice")
        lab.clock.ms -= 4_000
        assert matches(vault, "alice")
        vault.withdraw("alice", [IDENTIFY])
        lab.clock.ms -= 2_000
        assert reason(vault, "alice") == "clock"
    lab.clean()
