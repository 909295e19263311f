"""What the files tell whoever knows no key: what docs/THREATS.md lists, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facekeep.auditlog import ledger
from facekeep.formats import canonical
from facekeep.vault import Role
from vaultlab import DAY, IDENTIFY, MODEL, NOW, VERIFY, Lab, core, identify, log_entries, matches, reason

EXPIRES = NOW + 30 * DAY
#: kind of file -> which needles may be in it: the table of docs/THREATS.md
TOLD: dict[str, set[str]] = {
    "vault.toml": {"vault", "region", "model"},
    "vault.db": {"vault", "model", "tag"},
    "keys.db": {"vault", "packed principal", "root fingerprint"},
    "log.db": {"vault"},
    "backup": {"vault", "model", "tag"},
    "checkpoint": {"vault"},
    "vault.lock": set(),
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A vault with copies, two roles and two people, whose ledger has pages."""
    monkeypatch.setattr(ledger, "_LEAST", 1)
    monkeypatch.setattr(ledger, "_PAGE", 1)
    lab = Lab(tmp_path, copies=True).create()
    lab.add_principal(Role.SERVICE)
    lab.enrol("alice", "bob", regions=("DE", "FR"))
    return lab


def live(lab: Lab) -> Iterator[str]:
    """Decide, grant, withdraw, erase, back up; stop where the WAL is full of it, and at the end."""
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert not matches(vault, "alice", "bob")
        assert identify(vault, "bob") == ["bob"]
        assert reason(vault, "nobody") == "subject_unknown"
        vault.backup(lab.base / "backup")
        yield "open"
        vault.withdraw("bob", [IDENTIFY])
        vault.renew("alice", lab.consent(VERIFY, regions=("DE", "FR")))
        (lab.base / "checkpoint").write_bytes(vault.audit_checkpoint())
        yield "changed"
        vault.shred("bob")
        yield "erased"
    yield "closed"


def needles(lab: Lab) -> dict[str, list[bytes]]:
    """Everything that entries, terms and principals say, in the forms it could stand in."""
    found: dict[str, set[str]] = {
        "role": {role.value for role in Role},
        "scope": {'"verify"', '"identify"', "verify", "identify"},
        "reason": {"subject_unknown", "no_match", '"match"', '"ok"'},
        "threshold": {"500000"},
        "time": {str(NOW)},
        "model": {MODEL.id},
        "region": {'"DE"'},
        "key": set(),
        "type": set(),
        "principal": set(),
        "tag hex": set(),
    }
    raw: dict[str, set[bytes]] = {
        "packed regions": {b"DEFR" + bytes(28)},
        "packed expiry": {EXPIRES.to_bytes(8, "big")},
        "packed principal": set(),
        "tag": set(),
        "root fingerprint": set(),
        "vault": set(),
    }
    with lab.open() as vault:
        entries = log_entries(vault)
        vault_id = core(vault).vault_id
    raw["vault"] |= {vault_id, vault_id.hex().encode()}
    for entry in entries:
        found["key"] |= {f'"{key}":' for key in entry if key != "vault"}
        found["type"].add(f'"{entry["type"]}"')
        for key, kind in (("by", "principal"), ("tag", "tag")):
            value = entry.get(key)
            if isinstance(value, str):
                found["tag hex" if kind == "tag" else kind].add(value)
                raw["tag" if kind == "tag" else "packed principal"].add(bytes.fromhex(value))
        if isinstance(value := entry.get("fingerprint"), str):
            raw["root fingerprint"].add(bytes.fromhex(value))
            found["key"].add(value)
    return {name: [each.encode() for each in texts] for name, texts in found.items()} | {
        name: list(each) for name, each in raw.items()
    }


def kind_of(path: Path) -> str:
    """Which row of the table a file belongs to: sidecars belong to their file."""
    return path.name.removesuffix("-wal").removesuffix("-shm")


def test_the_files_tell_what_is_listed_and_nothing_else(lab: Lab) -> None:
    held: list[tuple[str, Path, bytes]] = []
    for moment in live(lab):
        held += [(moment, path, path.read_bytes()) for path in lab.files() if path != lab.root]
    wanted = needles(lab)
    found: dict[str, set[str]] = {}
    for _, path, data in held:
        told = {name for name, each in wanted.items() if any(needle in data for needle in each)}
        found.setdefault(kind_of(path), set()).update(told)
    assert found == {kind: TOLD[kind] for kind in found}
    names = {path.relative_to(lab.base).as_posix() for _, path, _ in held}
    assert names >= {
        "vault/vault.toml", "vault/vault.db", "vault/keys.db", "vault/log.db", "vault/log.db-wal",
        "vault/vault.db-wal", "copy/keys.db", "copy/log.db", "copy/log.db-wal", "backup", "checkpoint",
    }  # fmt: skip


def test_the_search_finds_what_entries_say(lab: Lab) -> None:
    """The needles are those of the entries in clear."""
    list(live(lab))
    with lab.open() as vault:
        clear = b"".join(map(canonical.dumps, log_entries(vault)))
    said = {name for name, each in needles(lab).items() if any(needle in clear for needle in each)}
    assert said >= {
        "role", "scope", "reason", "threshold", "time", "model", "region", "key", "type", "principal",
    }  # fmt: skip


def test_what_can_be_counted(lab: Lab) -> None:
    """People, grants, principals, entries, and which of them are no decisions: rows say that."""
    list(live(lab))
    assert lab.sql("vault.db", "SELECT count(DISTINCT tag) FROM grants") == [(1,)]
    assert lab.sql("keys.db", "SELECT count(*) FROM subject_index") == [(1,)]
    assert lab.sql("keys.db", "SELECT count(*) FROM principal") == [(2,)]
    assert lab.sql("log.db", "SELECT count(*) > 0 FROM page") == [(1,)]
    given_out = lab.sql("log.db", "SELECT count(*) FROM grant_entry")[0][0]
    assert given_out > lab.sql("vault.db", "SELECT count(*) FROM grants")[0][0]
    with lab.open() as vault:
        marks = [int(entry["type"] != "decision") for entry in log_entries(vault)]
    assert [mark for (mark,) in lab.sql("log.db", "SELECT control FROM entry ORDER BY idx")] == marks


def test_a_shredded_person_leaves_nothing_in_free_pages(lab: Lab) -> None:
    """Deleted rows are overwritten with zeros: neither pseudonym nor terms are left of them."""
    (tag,) = lab.sql("vault.db", "SELECT tag FROM grants LIMIT 1")[0]
    assert any(tag in path.read_bytes() for path in lab.files())
    with lab.open() as vault:
        vault.shred("bob")
        vault.shred("alice")
    for path in lab.files():
        assert tag not in path.read_bytes(), path
        assert EXPIRES.to_bytes(8, "big") not in path.read_bytes(), path
