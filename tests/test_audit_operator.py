"""``facekeep audit``, and the vault's audit methods: what is handed over, and who may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli_help import Cli
from facekeep.audit.bundle import verify
from facekeep.auditlog.signed import open_checkpoint
from facekeep.errors import ErasurePending, NotAllowed, UsageError
from facekeep.formats.bundle import ShreddingProof
from facekeep.formats.note import KeyType, VerifierKey
from facekeep.formats.opening import Opening
from facekeep.operations.auditing import Filter
from facekeep.vault import Existing, Role, Said
from vaultlab import IDENTIFY, VERIFY, Lab, calling, core, matches, reason


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a vault where ada is erased and bob lives; ada's receipt is ada.json."""
    cli = Cli(tmp_path, monkeypatch)
    (tmp_path / "ada.json").write_text(json.dumps(cli.enroll("ada", "ada", "verify", "identify")))
    (tmp_path / "bob.json").write_text(json.dumps(cli.enroll("bob", "bob")))
    cli.ok("audit", "checkpoint", "-o", "old.note")
    cli.ok("shred", "ada", "--yes")
    return cli


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).create()


def keys(cli: Cli) -> list[VerifierKey]:
    return [VerifierKey.parse(text) for text in cli.ok("audit", "key")["keys"]]


def test_the_keys_are_one_a_line(cli: Cli) -> None:
    found = keys(cli)
    assert [key.type for key in found] == [KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44]
    assert cli.run("audit", "key").out.split("\n")[:-1] == [key.encode() for key in found]
    prints = cli.ok("audit", "key")["fingerprints"]
    assert prints == [key.fingerprint() for key in found]
    assert all(each in cli.run("audit", "key").err for each in prints)
    assert cli.ok("audit", "key", "--all")["keys"] == [key.encode() for key in found]


def test_a_checkpoint_on_the_screen_and_in_a_file(cli: Cli) -> None:
    shown = cli.run("audit", "checkpoint").out.encode()
    size = open_checkpoint(shown, keys(cli)).checkpoint.size
    assert open_checkpoint(Path("old.note").read_bytes(), keys(cli)).checkpoint.size == size - 2
    cli.fails("usage", 10, "audit", "checkpoint", "-o", "old.note")


def test_a_consistency_proof_and_a_checkpoint_of_nobody(cli: Cli) -> None:
    note = cli.ok("audit", "checkpoint", "--since", "old.note", "-o", "since")["note"]
    assert note.startswith("old ")
    assert Path("since").read_text() == note
    Path("forged.note").write_bytes(Path("old.note").read_bytes().replace(b"\n", b"\nx", 1))
    cli.fails("format", 35, "audit", "checkpoint", "--since", "forged.note")


def test_an_export_grows(cli: Cli) -> None:
    first = cli.ok("audit", "export", "out")
    assert first["before"] == 0
    cli.verify("bob", "bob")
    second = cli.ok("audit", "export", "out")
    assert (second["before"], second["size"]) == (first["size"], first["size"] + 1)
    assert "1 new file" not in cli.run("audit", "export", "out").out


@pytest.mark.parametrize("name", ["entry", "tag", "receipt"])
def test_a_proof_after_the_person_is_gone(cli: Cli, name: str) -> None:
    receipt = json.loads(Path("ada.json").read_text())
    erasure = cli.ok("audit", "show", "--op", "shred", "--limit", "1")["index"]
    argument = {"entry": str(erasure), "tag": receipt["tag"], "receipt": "ada.json"}[name]
    told = cli.ok("audit", "proof", argument, "-o", "out.proof", "--role", "privacy officer")
    data = Path("out.proof").read_bytes()
    assert told["bytes"] == len(data) < 65_536
    found = verify(data, keys(cli), opening=Opening.parse(Path("ada.json").read_bytes()))
    assert (found.subject, found.erasure, len(found.grants)) == ("ada", erasure, 2)
    assert found.statement.role == "privacy officer"
    assert found.statement.organization == "not stated"
    assert b'"ada"' not in data


def test_a_certificate_beside_the_proof(cli: Cli) -> None:
    cli.ok("audit", "proof", "ada.json", "-o", "out.proof", "--certificate", "out.html")
    assert "Certificate of erasure" in Path("out.html").read_text()
    cli.fails("usage", 10, "audit", "proof", "ada.json", "-o", "out.proof")
    cli.fails("usage", 10, "audit", "proof", "ada.json", "-o", "new.proof", "--certificate", "out.html")
    assert not Path("new.proof").exists()


def test_what_has_no_proof(cli: Cli) -> None:
    for name in ("ada", "nobody", "999999", "0", "00" * 32, "1e3", "٣", "\ud800"):
        cli.fails("usage", 10, "audit", "proof", name, "-o", "out.proof")
    error = cli.fails("usage", 10, "audit", "proof", "bob", "-o", "out.proof")
    assert "enrolled, not erased" in error["message"]
    error = cli.fails("usage", 10, "audit", "proof", "bob.json", "-o", "out.proof")
    assert "never destroyed" in error["message"]
    Path("broken.json").write_text("{")
    cli.fails("usage", 10, "audit", "proof", "broken.json", "-o", "out.proof")
    cli.fails("usage", 10, "audit", "proof", "ada.json", "-o", "out.proof", "--role", "x" * 201)
    assert not Path("out.proof").exists()


def test_show_filters(cli: Cli) -> None:
    def shown(*words: str) -> list[dict[str, Any]]:
        ran = cli.run("audit", "show", "--json", *words)
        assert ran.code == 0, ran.err
        return [json.loads(line) for line in ran.out.split("\n")[:-1]]

    every = shown("--all")
    assert [each["index"] for each in every] == list(range(len(every)))
    assert [each["index"] for each in shown("--limit", "2")] == [len(every) - 2, len(every) - 1]
    assert {each["entry"]["type"] for each in shown("--type", "grant", "--type", "granted")} == {
        "grant",
        "granted",
    }
    assert len(shown("--receipt", "ada.json")) == 4
    tag = json.loads(Path("bob.json").read_text())["tag"]
    assert len(shown("--tag", tag)) == 2
    assert shown("--until", "1d") == []
    assert len(shown("--since", "1d", "--all")) == len(every)
    assert shown("--since", "2999-01-01") == []
    assert shown("--reason", "expired") == []
    cli.fails("usage", 10, "audit", "show", "--since", "yesterday")
    cli.fails("usage", 10, "audit", "show", "--tag", "xy")
    cli.fails("usage", 10, "audit", "show", "--tag", tag, "--receipt", "ada.json")
    cli.fails("store", 32, "audit", "show", "--receipt", "none.json")


def test_show_in_words(cli: Cli) -> None:
    cli.ok("keys", "rotate", "root", "--reason", "drill")
    cli.verify("bob", "bob")
    assert "\troot, drill\n" in cli.run("audit", "show", "--type", "rotation").out
    lines = cli.run("audit", "show").out.split("\n")[:-1]
    assert lines[0].split("\t")[2:] == ["genesis", "-", "epoch 1"]
    assert "verify, ok, verify" in lines[-1]
    assert any("shred, 2 slots, 1 subject" in line for line in lines)
    assert "ada" not in "".join(lines)


def test_an_operator_alone_may_not(cli: Cli) -> None:
    cli.ok("principal", "add", "ops", "--role", "operator", "--new-token-file", "ops.token")
    cli.ok("principal", "add", "eyes", "--role", "auditor", "--new-token-file", "eyes.token")
    for words in (
        ("key",),
        ("checkpoint",),
        ("checkpoint", "--since", "old.note"),
        ("export", "out"),
        ("proof", "ada.json", "-o", "out.proof"),
        ("show",),
    ):
        cli.fails("not_allowed", 21, "audit", *words, "--token-file", "ops.token")
    assert not Path("out").exists()
    cli.ok("audit", "proof", "ada.json", "-o", "out.proof", "--token-file", "eyes.token")
    error = cli.fails("usage", 10, "audit", "proof", "bob", "-o", "x", "--token-file", "eyes.token")
    assert "nothing erased" in error["message"]  # an auditor is not told who is enrolled


def test_the_help_says_what_there_is(cli: Cli) -> None:
    shown = cli.run("audit", "--help").out
    for name in ("key", "checkpoint", "export", "proof", "show"):
        assert f"\n  {name} " in shown


# The library


def test_an_erasure_of_several_is_proved_one_by_one(lab: Lab) -> None:
    lab.enrol("alice", "bob", "carol")
    with lab.open() as vault:
        erasure = vault.shred("alice", "bob", openings=True)
        assert [each.subject for each in erasure.openings] == ["alice", "bob"]
        with pytest.raises(UsageError, match="erased 2 subjects"):
            vault.audit_proof(str(erasure.erasure))
        for opening in erasure.openings:
            proof = vault.audit_proof(opening)
            found = verify(proof.data, vault.audit_keys(), opening=opening)
            assert found.subject == opening.subject
            assert ShreddingProof.parse(proof.data).tag == opening.tag
        assert not vault.shred("carol").openings


def test_openings_are_in_no_json(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        erasure = vault.shred("alice", openings=True)
        assert "openings" not in erasure.to_json()
        assert "alice" not in repr(erasure)


def test_every_way_a_grant_can_end(lab: Lab) -> None:
    lab.enrol("alice", "bob")
    with lab.open() as vault:
        vault.renew("alice", lab.consent(VERIFY, days=60))
        vault.enroll_many([lab.enrolment("alice", IDENTIFY)], existing=Existing.REPLACE)
        vault.withdraw("alice", [VERIFY])
        matches(vault, "bob")
        erasure = vault.shred("alice")
        proof = vault.audit_proof(str(erasure.erasure), Said(exported="none"))
    ends = [(grant.scope, grant.ended_op) for grant in proof.proven.grants]
    assert sorted(ends) == [
        ("identify", "reseal"),
        ("identify", "shred"),
        ("verify", "renew"),
        ("verify", "withdraw"),
    ]
    assert proof.proven.statement.exported == "none"


def test_who_is_enrolled_again_has_another_tag(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        old = vault.shred("alice", openings=True).openings[0]
    lab.enrol("alice")
    with lab.open() as vault:
        new = vault.shred("alice", openings=True).openings[0]
        assert old.tag != new.tag
        assert vault.audit_proof(old).proven.erasure < vault.audit_proof(new).proven.erasure


def test_a_withdrawal_of_one_scope_is_no_erasure(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        index = vault.withdraw("alice", [VERIFY]).erasure
        with pytest.raises(UsageError, match="1 of the subject's 2 grants"):
            vault.audit_proof(str(index))
        assert reason(vault, "alice") != "ok"


def test_an_erasure_in_progress_has_no_proof_yet(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        tag = next(vault.subjects()).tag
        seen: list[type[BaseException]] = []

        def ask() -> None:
            try:
                vault.audit_proof(tag)
            except ErasurePending as error:
                seen.append(type(error))

        with calling("destroy.announced", ask):
            vault.shred("alice")
        assert seen == [ErasurePending]
        assert vault.audit_proof(tag).proven.op == "shred"


def test_an_erasure_completed_by_recovery(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        tag = next(vault.subjects()).tag
    for step in ("destroy.announced",):
        lab.crash(lambda vault: vault.shred("alice"), step)
    with lab.open() as vault:
        assert vault.audit_proof(tag).proven.op == "shred"


def test_a_bulk_enrolment_leaves_a_small_proof(lab: Lab) -> None:
    with lab.open() as vault:
        vault.enroll_many([lab.enrolment(f"p{at}") for at in range(200)])
        proof = vault.audit_proof(vault.shred("p100", openings=True).openings[0])
    assert len(proof.data) < 32_768
    assert len(proof.proven.grants) == 2


def test_roles_that_may(lab: Lab) -> None:
    lab.enrol("alice")
    for role in Role:
        allowed = role in {Role.AUDITOR, Role.DPO}
        target = lab.base / f"out-{role}"
        with lab.open(lab.add_principal(role)) as vault:
            for ask in (
                vault.audit_keys,
                vault.audit_checkpoint,
                lambda: list(vault.audit_log(Filter())),
                lambda: vault.audit_consistency(b""),
                lambda target=target: vault.audit_export(target),
                lambda: vault.audit_proof("00" * 32),
            ):
                try:
                    ask()
                    refused = False
                except NotAllowed:
                    refused = True
                except Exception:  # noqa: BLE001 - allowed, and wrong for another reason
                    refused = False
                assert refused is not allowed


def test_the_tree_beside_an_open_vault_does_not_disturb_it(lab: Lab) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        for _ in range(3):
            assert matches(vault, "alice")
            vault.audit_checkpoint()
        core(vault).log.verify()
    lab.clean()
