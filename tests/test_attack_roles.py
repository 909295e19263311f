"""Attacks with a token: every public method by every role, what refusals tell, tokens that were revoked."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from facekeep.access.roles import ALLOWED, Action, Role
from facekeep.errors import Denied, FacekeepError, NotAllowed
from facekeep.formats.note import VerifierKey
from facekeep.matching.gallery import Gallery
from facekeep.operations.keyops import Holders, Keys
from facekeep.vault import Enrolment, Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    held,
    identify,
    log_entries,
    matches,
)

MAY_KNOW = {Action.ENROLL, Action.GRANT, Action.RENEW, Action.WITHDRAW, Action.SHRED, Action.SUBJECTS}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.backup(tmp_path / "backup"))
    return lab


class Call(NamedTuple):
    """A public method, the action it needs, a call of it; ``who`` is whom it asks about."""

    needs: Action
    do: Callable[[Lab, Vault, str], object]


def search(vault: Vault) -> object:
    with vault.gallery(model=MODEL) as gallery:
        return gallery.search(face("alice"), THRESHOLD, 5).compared


CALLS: dict[str, Call] = {
    "enroll": Call(
        Action.ENROLL,
        lambda lab, vault, who: vault.enroll(
            who, embeddings=face("x"), model=MODEL, consent=lab.consent(VERIFY)
        ),
    ),
    "prepare": Call(
        Action.ENROLL,
        lambda lab, vault, who: vault.prepare(
            who, embeddings=face("x"), model=MODEL, consent=lab.consent(VERIFY)
        ),
    ),
    "enroll_many": Call(
        Action.ENROLL,
        lambda lab, vault, who: vault.enroll_many(
            [Enrolment(who, face("x")[None], MODEL, lab.consent(VERIFY))], existing="skip"
        ),
    ),
    "is_enrolled": Call(Action.ENROLL, lambda _, vault, who: vault.is_enrolled(who, [VERIFY])),
    "grant": Call(Action.GRANT, lambda lab, vault, who: vault.grant(who, lab.consent(IDENTIFY))),
    "renew": Call(Action.RENEW, lambda lab, vault, who: vault.renew(who, lab.consent(VERIFY))),
    "withdraw": Call(Action.WITHDRAW, lambda _, vault, who: vault.withdraw(who, [IDENTIFY])),
    "verify": Call(Action.VERIFY, lambda _, vault, who: matches(vault, who)),
    "identify": Call(Action.IDENTIFY, lambda _, vault, who: identify(vault, who)),
    "gallery": Call(Action.IDENTIFY, lambda _, vault, __: search(vault)),
    "backup": Call(Action.BACKUP, lambda lab, vault, _: vault.backup(lab.base / "another")),
    "check_backup": Call(Action.BACKUP, lambda lab, vault, _: vault.check_backup(lab.base / "backup")),
    "restore": Call(Action.RESTORE, lambda lab, vault, _: vault.restore(lab.base / "backup", dry_run=True)),
    "subjects": Call(Action.SUBJECTS, lambda _, vault, __: list(vault.subjects())),
    "status": Call(Action.STATUS, lambda _, vault, __: vault.status()),
    "maintain": Call(Action.MAINTAIN, lambda _, vault, __: vault.maintain(dry_run=True)),
    "decision": Call(Action.STATUS, lambda _, vault, __: vault.decision("3-00000000")),
    "check": Call(Action.CHECK, lambda _, vault, __: vault.check()),
    "repair_index": Call(Action.RESTORE, lambda _, vault, __: vault.repair_index()),
    "accept_clock": Call(Action.CLOCK, lambda _, vault, __: vault.accept_clock()),
    "change_settings": Call(Action.SETTINGS, lambda _, vault, __: vault.change_settings(region="DE")),
    "add_principal": Call(Action.PRINCIPALS, lambda _, vault, __: vault.add_principal("x", [Role.AUDITOR])),
    "principals": Call(Action.PRINCIPALS, lambda _, vault, __: vault.principals()),
    "revoke_principal": Call(Action.PRINCIPALS, lambda _, vault, __: vault.revoke_principal("0" * 16)),
    "audit_keys": Call(Action.LOG, lambda _, vault, __: vault.audit_keys()),
    "audit_checkpoint": Call(Action.LOG, lambda _, vault, __: vault.audit_checkpoint()),
    "audit_consistency": Call(Action.LOG, lambda _, vault, __: vault.audit_consistency(b"")),
    "audit_export": Call(Action.LOG, lambda lab, vault, _: vault.audit_export(lab.base / "export")),
    "audit_proof": Call(Action.LOG, lambda _, vault, who: vault.audit_proof(who)),
    "audit_log": Call(Action.LOG, lambda _, vault, __: list(vault.audit_log())),
    "probe": Call(
        Action.CHECK, lambda lab, vault, _: vault.probe(lab.base / "backup", [], list[VerifierKey]())
    ),
    "scrub": Call(
        Action.RESTORE, lambda lab, vault, _: Vault.scrub(lab.path, token=token_of(vault), clock=lab.clock)
    ),
    "restart_log": Call(
        Action.RESTORE,
        lambda lab, vault, _: Vault.restart_log(lab.path, token=token_of(vault), clock=lab.clock),
    ),
    "keys.rotate_root": Call(Action.KEYS, lambda _, vault, __: vault.keys.rotate_root()),
    "keys.rotate_tree": Call(Action.KEYS, lambda _, vault, __: vault.keys.rotate_tree()),
    "keys.rotate_templates": Call(Action.KEYS, lambda _, vault, __: vault.keys.rotate_templates()),
    "keys.rotate_signing": Call(Action.KEYS, lambda _, vault, __: vault.keys.rotate_signing()),
    "keys.extent": Call(Action.KEYS, lambda _, vault, __: vault.keys.extent("root")),
    "keys.estimate": Call(Action.KEYS, lambda _, vault, __: vault.keys.estimate()),
    "keys.move": Call(Action.KEYS, lambda _, vault, __: vault.keys.move(Holders())),
    "keys.plan_move": Call(Action.KEYS, lambda _, vault, __: vault.keys.plan_move(Holders())),
    "keys.holders": Call(Action.STATUS, lambda _, vault, __: vault.keys.holders()),
    "keys.pending": Call(Action.STATUS, lambda _, vault, __: vault.keys.pending()),
    "keys.resume": Call(Action.KEYS, lambda _, vault, __: vault.keys.resume()),
    "shred": Call(Action.SHRED, lambda _, vault, who: vault.shred(who)),
}

#: What tells nothing of a person: how to open and close, and what stands in vault.toml, which is readable.
FREE = {"create", "open", "close", "vault_id", "region", "extractor", "settings", "keys", "whoami"}
OF_A_GALLERY = {"closed", "locked", "search", "refresh", "close"}


def token_of(vault: Vault) -> str:
    assert vault.token is not None
    return vault.token


def opened(lab: Lab, token: str) -> Vault:
    vault = Vault.open(lab.path, token=token, clock=lab.clock)
    vault.token = token
    return vault


def public(of: type) -> set[str]:
    kinds = (property, cached_property, classmethod, staticmethod)
    return {
        name
        for name, value in vars(of).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    }


def outcome(act: Callable[[], object]) -> tuple[object, ...]:
    """What a caller sees of a call: the answer, or the error in full."""
    try:
        return ("answered", repr(act()))
    except FacekeepError as error:
        return (type(error), str(error), error.next, error.code)


_REASONS = {"role": "role", "principal_revoked": "revoked", "principal_unknown": "revoked"}


def refused(vault: Vault, act: Callable[[], object]) -> str | None:
    """Why a principal may not: ``role`` or ``revoked``; None where it may."""
    try:
        act()
    except NotAllowed as error:
        return "role" if "may not" in str(error) else "revoked"
    except Denied as error:
        index = int(str(error.decision).split("-", maxsplit=1)[0])
        return _REASONS.get(str(core(vault).log.entry(index)["reason"]))
    except FacekeepError:
        return None
    return None


def test_no_public_method_is_left_out_of_the_table() -> None:
    assert public(Vault) | {f"keys.{name}" for name in public(Keys)} == set(CALLS) | FREE
    assert public(Gallery) == OF_A_GALLERY
    assert {call.needs for call in CALLS.values()} == set(Action)


@pytest.mark.parametrize("role", list(Role))
def test_every_method_with_every_role(lab: Lab, role: Role) -> None:
    """A role may exactly what the table says, and who may not leaves neither an answer nor a change."""
    token = lab.add_principal(role)
    for name, call in CALLS.items():
        vault = opened(lab, token)
        try:
            size = core(vault).log.head().size
            why = refused(vault, partial(call.do, lab, vault, "bob"))
            assert why == (None if call.needs in ALLOWED[role] else "role"), name
            if why:
                entries = log_entries(vault)[size:]
                assert [each["type"] for each in entries] == ["decision"] * (
                    call.needs in (Action.VERIFY, Action.IDENTIFY)
                )
        finally:
            vault.close()
    lab.clean()


@pytest.mark.parametrize("role", [Role.SERVICE, Role.AUDITOR])
def test_who_may_not_know_is_told_the_same_of_the_enrolled_and_of_nobody(lab: Lab, role: Role) -> None:
    """Answer, message, next step, log: all the same, but for decisions, which the log has."""
    assert not ALLOWED[role] & MAY_KNOW
    vault = opened(lab, lab.add_principal(role))
    try:
        for name, call in CALLS.items():
            if call.needs in (Action.VERIFY, Action.IDENTIFY):
                continue
            size = core(vault).log.head().size
            told = [outcome(partial(call.do, lab, vault, who)) for who in ("alice", "nobody")]
            if call.needs not in ALLOWED[role]:
                assert told[0] == told[1], name
                assert core(vault).log.head().size == size
        proof = [outcome(partial(vault.audit_proof, who)) for who in ("alice", "nobody")]
        assert proof[0] == proof[1]
    finally:
        vault.close()


def test_a_service_learns_nothing_that_is_in_no_decision(lab: Lab) -> None:
    with lab.open(lab.add_principal(Role.SERVICE)) as vault:
        size = core(vault).log.head().size
        shown: list[tuple[int, int]] = []
        with vault.gallery(model=MODEL, progress=lambda done, total: shown.append((done, total))) as gallery:
            with pytest.raises(TypeError):
                len(gallery)  # type: ignore[arg-type]
            gallery.refresh()
            assert set(shown) <= {(100, 100)}
            assert core(vault).log.head().size == size
            found = gallery.search(face("alice"), THRESHOLD, 5)
        entry = log_entries(vault)[-1]
        assert (entry["count"], entry["excluded"]) == (found.compared, found.excluded) == (2, 0)


@pytest.mark.parametrize("existing", ["refuse", "skip", "replace", "add"])
def test_a_service_cannot_find_out_by_enrolling(lab: Lab, existing: str) -> None:
    with lab.open(lab.add_principal(Role.SERVICE)) as vault:
        size = core(vault).log.head().size
        told = {
            outcome(partial(vault.enroll_many, [lab.enrolment(who)], existing=existing))
            for who in ("alice", "nobody")
        }
        assert len(told) == 1
        assert core(vault).log.head().size == size
    lab.clean()


def test_a_service_cannot_erase_scope_by_scope_nor_replace_photographs(lab: Lab) -> None:
    with lab.open(lab.add_principal(Role.SERVICE)) as vault:
        for act in (
            lambda: vault.withdraw("alice", [VERIFY, IDENTIFY]),
            lambda: vault.withdraw("alice", [VERIFY]),
            lambda: vault.renew("alice", lab.consent(VERIFY, days=0.001)),
            lambda: vault.enroll_many([lab.enrolment("alice")], existing="replace"),
        ):
            with pytest.raises(NotAllowed):
                act()
        assert matches(vault, "alice")
        assert identify(vault, "alice") == ["alice"]


def test_a_registrar_resumes_a_bulk_enrolment_and_decides_nothing(lab: Lab) -> None:
    with lab.open(lab.add_principal(Role.REGISTRAR)) as vault:
        assert vault.is_enrolled("alice", [VERIFY])
        assert not vault.is_enrolled("carol", [VERIFY])
        vault.enroll_many([lab.enrolment("alice"), lab.enrolment("carol")], existing="skip")
        assert vault.is_enrolled("carol", [VERIFY])
        vault.withdraw("carol", [VERIFY, IDENTIFY])
        for act in (lambda: matches(vault, "alice"), lambda: identify(vault, "alice"), lambda: search(vault)):
            assert refused(vault, act) == "role"
    lab.clean()


# -- a token that was revoked


def revoke(lab: Lab, token: str) -> None:
    lab.do(lambda vault: vault.revoke_principal(token.split(".")[1]))


def test_every_method_refuses_a_revoked_principal_at_once(lab: Lab) -> None:
    token = lab.add_principal(*Role)
    vault = opened(lab, token)
    try:
        assert vault.whoami()[2]
        assert matches(vault, "alice")
        listing, reading = vault.subjects(), vault.audit_log()
        next(listing)
        next(reading)
        revoke(lab, token)
        for each in (listing, reading):
            with pytest.raises(NotAllowed):
                next(each)
        with pytest.raises(NotAllowed):
            vault.whoami()
        for name, call in CALLS.items():
            why = refused(vault, partial(call.do, lab, vault, "alice"))
            assert why == "revoked", name
    finally:
        vault.close()
    lab.clean()


def wait_empty(gallery: Gallery) -> None:
    for _ in range(1_000):
        if not held(gallery):
            return
        time.sleep(0.01)
    pytest.fail("the watcher did not empty it")


def templates(gallery: Gallery) -> int:
    """Bytes of templates that are left in a gallery's memory."""
    return int(np.count_nonzero(gallery._rows._whole()))


def test_the_galleries_of_a_revoked_principal_are_emptied_while_nobody_calls(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    with (
        lab.open(token) as vault,
        vault.gallery(model=MODEL) as gallery,
        lab.open() as other,
        other.gallery(model=MODEL) as kept,
    ):
        assert templates(gallery)
        other.revoke_principal(token.split(".")[1])
        wait_empty(gallery)
        assert templates(gallery) == 0
        assert held(kept) == 2
        assert refused(vault, lambda: gallery.search(face("alice"), THRESHOLD, 5)) == "revoked"
        gallery.refresh()
        assert templates(gallery) == 0
        assert kept.search(face("alice"), THRESHOLD, 5).compared == 2


def test_a_revoked_principal_cannot_have_a_gallery_filled_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a call, not by what changes in the log, and not by a term that begins."""
    lab.enrol("later", not_before_ms=lab.clock.ms + DAY, days=30)
    token = lab.add_principal(Role.SERVICE)
    monkeypatch.setattr("facekeep.access.watcher._WATCH_S", 3_600)
    with lab.open(token) as vault, vault.gallery(model=MODEL) as gallery:
        assert templates(gallery)
        revoke(lab, token)
        gallery.refresh()
        assert templates(gallery) == 0
        lab.enrol("carol")
        lab.clock.ms += 2 * DAY
        gallery.refresh()
        assert refused(vault, lambda: gallery.search(face("alice"), THRESHOLD, 5)) == "revoked"
        assert refused(vault, lambda: identify(vault, "alice")) == "revoked"
        assert templates(gallery) == 0


def test_a_principal_that_is_revoked_while_its_gallery_is_filled(lab: Lab) -> None:
    """The first rows are open when the revocation comes: they are zeroed before anybody can search."""
    token = lab.add_principal(Role.SERVICE)

    def meanwhile(_done: int, _total: int) -> None:
        if not done:
            done.append(1)
            revoke(lab, token)

    done: list[int] = []
    vault = Vault.open(lab.path, token=token, clock=lab.clock)
    try:
        with vault.gallery(model=MODEL, progress=meanwhile) as gallery:
            gallery.refresh()
            assert (held(gallery), templates(gallery)) == (0, 0)
    finally:
        vault.close()


def test_a_principal_whose_row_was_altered_holds_templates_until_it_is_revoked(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as vault, vault.gallery(model=MODEL) as gallery:
        identity = bytes.fromhex(token.split(".")[1])
        lab.sql("keys.db", "UPDATE principal SET sealed = zeroblob(200) WHERE principal = ?", (identity,))
        lab.add_principal(Role.AUDITOR)  # the state moves
        gallery.refresh()
        assert templates(gallery)
        revoke(lab, token)
        gallery.refresh()
        assert templates(gallery) == 0


def listed(found: Iterator[object]) -> int:
    return sum(1 for _ in found)


def test_a_listing_made_before_a_revocation_and_read_after_it(lab: Lab) -> None:
    token = lab.add_principal(Role.DPO)
    with lab.open(token) as vault:
        listing = vault.subjects()
        revoke(lab, token)
        with pytest.raises(NotAllowed):
            listed(listing)
