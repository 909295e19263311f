"""What is asked afterwards: the proof of a withdrawal, all that concerns a person, keys rotated meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditlog_help import NOW
from facekeep.audit.bundle import verify
from facekeep.audit.certificate import render
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.logs import verify_log
from facekeep.audit.opening import open_trusted
from facekeep.audit.report import RuleBroken, Verdict
from facekeep.audit.watch import watch
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.errors import UsageError
from facekeep.formats.bundle import WITHDRAWN, ShreddingProof
from facekeep.formats.note import VerifierKey
from facekeep.operations.auditing import Filter
from facekeep.operations.rotation import Why
from facekeep.vault import Vault
from proof_help import (
    IDENTIFY_SLOT,
    TAG,
    VERIFY_SLOT,
    broken,
    destroy,
    destroyed,
    forge,
    grant,
    item,
    proven,
    story,
)
from vaultlab import IDENTIFY, VERIFY, Lab, identify, matches


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).create()


def exported(vault: Vault, folder: Path, keys: tuple[VerifierKey, ...]) -> ExportedTree:
    vault.audit_export(folder)
    files = ExportDirectory(folder)
    return ExportedTree(files, open_trusted(files.checkpoint(), keys, files))


def test_a_withdrawal_is_proved_while_the_person_lives_and_consents_again(lab: Lab, tmp_path: Path) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        tag = next(each.tag for each in vault.subjects() if each.subject == "alice")
        with pytest.raises(UsageError, match="was withdrawn"):
            vault.audit_proof(tag, scopes=[IDENTIFY])
        erasure = vault.withdraw("alice", [IDENTIFY]).erasure
        keys = vault.audit_keys()
        for again in (False, True):
            if again:
                vault.grant("alice", lab.consent(IDENTIFY))
                assert identify(vault, "alice") == ["alice"]
            proof = vault.audit_proof(tag, scopes=[IDENTIFY])
            assert (proof.proven.op, proof.proven.erasure, proof.proven.scopes) == (
                "withdraw", erasure, ("identify",),
            )  # fmt: skip
            found = verify(proof.data, keys, log=exported(vault, tmp_path / "export", keys))
            assert found.complete
            assert WITHDRAWN.items() <= found.not_proved().items()
            assert "Certificate of withdrawal" in render(found)
            assert keys[0].fingerprint() in render(found)
            with pytest.raises(UsageError, match="was withdrawn"):
                vault.audit_proof(tag, scopes=[VERIFY])
            with pytest.raises(UsageError, match="never destroyed"):
                vault.audit_proof(tag)
        assert matches(vault, "alice")
        vault.withdraw("alice", [IDENTIFY, VERIFY])
        for scopes in ([IDENTIFY], [VERIFY], [VERIFY, IDENTIFY], []):
            assert verify(vault.audit_proof(tag, scopes=scopes).data, keys).op == "withdraw"


def test_a_withdrawal_that_is_none() -> None:
    log = [*story()[:3], destroy(IDENTIFY_SLOT, op="withdraw", tags=()), destroyed(3)]
    assert proven(forge(log, scopes=("identify",))).scopes == ("identify",)
    assert broken(forge(log)) == "P9"  # not everything
    assert broken(forge(log, scopes=("verify",))) == "P9"  # another scope
    assert broken(forge(log, scopes=("identify", "verify"))) == "P9"
    assert broken(forge(log, scopes=("share",))) == "P8"
    assert broken(forge(story(), scopes=("identify",))) == "P5"  # an erasure
    later = [*story()[:3], destroy(IDENTIFY_SLOT, op="withdraw", tags=()), destroyed(3)]
    later.append(grant(item(IDENTIFY_SLOT + 1)))
    assert broken(forge(later, (0, 1, 3, 4, 5), scopes=("identify",))) == "P8"
    left = [*story()[:1], grant(item(IDENTIFY_SLOT), item(IDENTIFY_SLOT + 1)), *log[2:]]
    assert broken(forge(left, scopes=("identify",))) == "P9"


@pytest.mark.parametrize("how", ["renewed", "resealed", "shredded"])
def test_a_consent_that_lived_on_is_not_said_to_be_withdrawn(lab: Lab, how: str) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        tag = next(each.tag for each in vault.subjects() if each.subject == "alice")
        vault.withdraw("alice", [VERIFY])
        if how == "renewed":
            vault.renew("alice", lab.consent(IDENTIFY, days=40))
        elif how == "resealed":
            vault.keys.rotate_templates()
        else:
            vault.shred("alice")
        with pytest.raises(UsageError, match="not every consent"):
            vault.audit_proof(tag, scopes=[VERIFY, IDENTIFY])
        assert vault.audit_proof(tag, scopes=[VERIFY]).proven.scopes == ("verify",)


@pytest.mark.parametrize("op", ["renew", "reseal", "shred", "expire"])
def test_a_proof_of_withdrawal_with_a_consent_that_lived_on(op: str) -> None:
    log = [*story()[:3], destroy(VERIFY_SLOT, op="withdraw", tags=()), destroyed(3)]
    tags = (TAG,) if op == "shred" else ()
    log += [destroy(IDENTIFY_SLOT, op=op, tags=tags), destroyed(5, 3, b"g" * 32, b"h" * 32)]
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), scopes=("identify", "verify"))) == "P9"
    assert proven(forge(log, (0, 1, 3, 4), scopes=("verify",))).scopes == ("verify",)


@pytest.mark.parametrize("scopes", [("verify", "identify"), ("identify", "identify"), ("all",), ("Verify",)])
def test_scopes_that_are_none(scopes: tuple[str, ...]) -> None:
    assert broken(forge(story(), scopes=scopes)) == "P1"


def test_what_concerns_a_person_is_shown_whole(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        tag = bytes.fromhex(next(each.tag for each in vault.subjects() if each.subject == "alice"))
        matches(vault, "alice")
        identify(vault, "alice")
        matches(vault, "bob")
        identify(vault, "bob")
        vault.withdraw("alice", [IDENTIFY])
        vault.shred("bob")
        vault.shred("alice")
        shown = [entry for _, entry in vault.audit_log(Filter(tag=tag))]
        assert [(each["type"], each.get("op")) for each in shown] == [
            ("grant", "enroll"), ("granted", None), ("decision", "verify"), ("decision", "identify"),
            ("destroy", "withdraw"), ("destroyed", None), ("destroy", "shred"), ("destroyed", None),
        ]  # fmt: skip
        last = [entry for _, entry in vault.audit_log(Filter(tag=tag), limit=2)]
        assert last == shown[-2:]


def test_a_proof_and_a_state_of_before_a_rotation_under_the_keys_of_after_it(
    lab: Lab, tmp_path: Path
) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        old_keys = vault.audit_keys()
        old = vault.audit_proof(vault.shred("alice", openings=True).openings[0]).data
        exported(vault, tmp_path / "export", old_keys)
        watch(tmp_path / "export", old_keys, tmp_path / "state", time_ms=NOW)
        seen = (tmp_path / "state").read_bytes()
        vault.keys.rotate_signing(Why.SCHEDULED)
        keys = vault.audit_keys()
        log = exported(vault, tmp_path / "export", keys)
    with pytest.raises(RuleBroken, match="P2") as caught:
        verify(old, keys)
    assert "--all" in caught.value.next.command
    assert "cannot tell" in caught.value.why
    assert "keys_in_force" in verify(old, old_keys).not_proved()  # whoever stole them could sign it today
    assert "keys_in_force" not in verify(old, old_keys, log=log).not_proved()
    for given in (keys, keys[:1], old_keys, (*old_keys, *keys)):
        assert verify(old, given, log=log).complete
    with pytest.raises(RuleBroken, match="P2"):
        verify(_resigned(old), keys, log=log)
    assert verify_consistency(seen, tmp_path / "export", keys).steps[4].verdict is Verdict.HOLDS
    assert watch(tmp_path / "export", keys, tmp_path / "state", time_ms=NOW).before is not None
    assert verify_log(tmp_path / "export", keys).size == log.checkpoint.size


def _resigned(data: bytes) -> bytes:
    """The same bundle under a checkpoint whose first signature is another."""
    bundle = ShreddingProof.parse(data)
    note = bundle.checkpoint
    first = note.signatures[0]
    spoilt = type(note)(note.text, (type(first)(first.name, first.key_id, bytes(64)), *note.signatures[1:]))
    return ShreddingProof(
        bundle.vault, bundle.tag, bundle.erasure, bundle.made_ms, spoilt, bundle.entries, bundle.statement,
        bundle.scopes, bundle.signatures,
    ).encode()  # fmt: skip


def test_the_old_proof_of_somebody_who_is_enrolled_again(lab: Lab, tmp_path: Path) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        opening = vault.shred("alice", openings=True).openings[0]
        proof = vault.audit_proof(opening).data
    lab.enrol("alice")
    with lab.open() as vault:
        keys = vault.audit_keys()
        found = verify(proof, keys, opening=opening, log=exported(vault, tmp_path / "export", keys))
    assert found.complete
    assert "again" in str(found.not_proved()["other_tags"])
    assert found.report.steps[12].text.endswith("no other grant of the subject tag")
