"""Junk in the files: what is not the log's is dropped before it costs anything, and nothing else happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekeep.errors import FacekeepError, IntegrityError, Unavailable
from facekeep.formats.ids import SLOT_BITS
from facekeep.limits import LIMITS
from facekeep.store.vaultdb import GrantRow, VaultStore
from facekeep.vault import Vault
from vaultlab import (
    DAY,
    IDENTIFY,
    MODEL,
    THRESHOLD,
    VERIFY,
    Lab,
    core,
    face,
    identify,
    identify_reason,
    log_entries,
    matches,
    prove,
    reason,
    slots,
    sql,
)

IMPOSSIBLE = (2**53 - 1, 2**53, 2**63 - 1, -1, -(2**63), 99 << SLOT_BITS, 17, 2**21 - 1)
LONG = 65_536 * "x"
REFUSED = {"integrity", "terms", "scope", "subject_unknown", "destroyed", "model", "unavailable"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    return lab


def _row(lab: Lab, slot: int) -> tuple[Any, ...]:
    return lab.sql("vault.db", "SELECT * FROM grants WHERE slot = ?", (slot,))[0]


def _put(path: Path, *rows: tuple[Any, ...]) -> None:
    for row in rows:
        sql(path, "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize("opened", [False, True])
def test_slots_that_cannot_be_stand_under_a_persons_tag(lab: Lab, *, opened: bool) -> None:
    alice = lab.do(lambda vault: slots(vault, "alice"))
    row = _row(lab, alice[VERIFY])
    junk = [(slot, *row[1:]) for slot in IMPOSSIBLE]
    lab.clock.ms += 60 * DAY  # her grants have lapsed: a refusal names a slot
    if not opened:
        _put(lab.path / "vault.db", *junk)
    with lab.open() as vault:
        _put(lab.path / "vault.db", *junk)
        assert reason(vault, "alice") == "expired"
        assert identify(vault, "alice") == []
        assert len(list(vault.subjects())) == 2
        findings = [each.message for each in vault.check().findings]
        assert any(f"{len(IMPOSSIBLE)} rows stand in slots" in each for each in findings)
        assert all(str(slot) in findings[0] for slot in IMPOSSIBLE)
        prove(vault)
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    lab.clean()


def test_a_tag_with_nothing_but_slots_that_cannot_be(lab: Lab) -> None:
    row = _row(lab, lab.do(lambda vault: slots(vault, "alice"))[VERIFY])
    lab.sql("vault.db", "DELETE FROM grants WHERE tag = ?", (row[2],))
    _put(lab.path / "vault.db", *[(slot, *row[1:]) for slot in IMPOSSIBLE])
    with lab.open() as vault:
        assert reason(vault, "alice") == "scope"
        assert matches(vault, "bob")


def test_what_junk_stands_under_a_tag_is_never_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of rows, the gate reads no more than a person can have."""
    alice = lab.do(lambda vault: slots(vault, "alice"))
    row = _row(lab, alice[VERIFY])
    base = alice[VERIFY] >> SLOT_BITS << SLOT_BITS
    junk = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    read: list[int] = []
    original = VaultStore.by_slots

    def counting(store: VaultStore, wanted: list[int]) -> list[GrantRow]:
        read.extend(wanted)
        return original(store, wanted)

    with lab.open() as vault:
        lab.sql(
            "vault.db",
            f"{junk} INSERT INTO grants SELECT ? + i, ?, ?, ?, ?, ?, ?, ? FROM n",
            (base + 10_000, *row[1:]),
        )
        monkeypatch.setattr(VaultStore, "by_slots", counting)
        assert matches(vault, "alice")
        assert sorted(read) == sorted(alice.values())
        assert identify(vault, "alice") == ["alice"]


def test_dead_rows_under_a_tag_do_not_hide_the_living_one(lab: Lab) -> None:
    """Slots that were given out and destroyed: newer than hers, and more than the gate reads."""
    row = _row(lab, lab.do(lambda vault: slots(vault, "alice"))[VERIFY])
    crowd = [f"crowd {at}" for at in range(LIMITS.rows_at_gate + 5)]
    lab.enrol(*crowd, scopes=(VERIFY,))
    with lab.open() as vault:
        dead = [slot for name in crowd for slot in slots(vault, name).values()]
        vault.shred(*crowd)
    _put(lab.path / "vault.db", *[(slot, *row[1:]) for slot in dead])
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert vault.check().ok


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("model", LONG),
        ("model", "m\xe9"),
        ("terms", LONG.encode()),
        ("grant_id", b""),
        ("record", bytes(10**6)),
    ],
)
def test_a_column_of_no_length_of_ours(lab: Lab, column: str, value: object) -> None:
    """One person is refused; lists, repairs and rotations are not stopped by an error of no name."""
    alice = lab.do(lambda vault: slots(vault, "alice"))
    for slot in alice.values():
        lab.sql("vault.db", f"UPDATE grants SET {column} = ? WHERE slot = ?", (value, slot))
    with lab.open() as vault:
        assert reason(vault, "alice") in REFUSED | {"ok"}
        assert identify_reason(vault, "bob") == "ok"
        with pytest.raises(IntegrityError, match="2 rows of vault"):
            list(vault.subjects())
        assert not vault.check().ok
        vault.repair_index()
        with contextlib.suppress(FacekeepError):  # ours, or none
            vault.keys.rotate_tree()
        assert matches(vault, "bob")
        vault.shred("alice")
        assert vault.check().ok


def test_a_model_that_is_no_text_at_all(lab: Lab) -> None:
    """Bytes that are no UTF-8 in a text column stop nothing."""
    alice = lab.do(lambda vault: slots(vault, "alice"))
    lab.sql("vault.db", "UPDATE grants SET model = CAST(x'fffe' AS TEXT) WHERE slot = ?", (alice[VERIFY],))
    with lab.open() as vault:
        assert reason(vault, "alice") in REFUSED
        vault.repair_index()
        assert matches(vault, "bob")


def test_junk_in_a_backup(lab: Lab, tmp_path: Path) -> None:
    backup = tmp_path / "data.backup"
    alice = lab.do(lambda vault: slots(vault, "alice"))
    lab.do(lambda vault: vault.backup(backup))
    row = sql(backup, "SELECT * FROM grants WHERE slot = ?", (alice[VERIFY],))[0]
    _put(backup, *[(slot, *row[1:3], LONG, *row[4:]) for slot in IMPOSSIBLE])
    sql(backup, "UPDATE grants SET model = ? WHERE slot = ?", (LONG, alice[IDENTIFY]))
    lab.sql("vault.db", "DELETE FROM grants")
    with lab.open() as vault:
        report = vault.restore(backup)
        assert report.rows == report.merged + report.refused + report.dead == 4 + len(IMPOSSIBLE)
        assert report.merged == 3
        assert matches(vault, "alice")
        assert not set(IMPOSSIBLE) & set(core(vault).data.slots())


def test_junk_in_keys_db(lab: Lab) -> None:
    """Rows of index, principals and nodes that are longer than any, or stand where none can."""
    huge = bytes(2**20)
    with lab.open() as vault:
        lab.sql("keys.db", "INSERT INTO subject_index VALUES (?, ?)", (huge, huge))
        lab.sql("keys.db", "UPDATE subject_index SET sealed = ? WHERE length(sealed) < 100", (huge,))
        for at in range(50):
            values = (2**40 + at, at.to_bytes(8, "big"), huge, huge, huge)
            lab.sql("keys.db", "INSERT INTO principal VALUES (?, ?, ?, ?, ?)", values)
        lab.sql("keys.db", "INSERT INTO node VALUES (?, ?, ?)", (2**50, 1, huge))
        assert reason(vault, "alice") == "integrity"
        assert len(vault.principals()) == 17  # a few of them are named
        assert any("34 more rows of principals" in each.message for each in vault.check().findings)
        vault.repair_index()
        assert matches(vault, "alice")
    Vault.scrub(lab.path, token=lab.token, clock=lab.clock)
    assert lab.do(lambda vault: core(vault).keys.principal_count()) == 1


def test_a_root_node_of_a_megabyte(lab: Lab) -> None:
    """One of its two rows: the other one serves, and the check says so."""
    lab.sql("keys.db", "UPDATE top SET blob = ? WHERE copy = 0", (bytes(2**20),))
    with lab.open() as vault:
        assert matches(vault, "alice")
        assert not vault.check().ok


def test_a_log_entry_of_a_megabyte(lab: Lab) -> None:
    """An entry that is longer than any is damage; it is never read whole."""
    with lab.open() as vault:
        lab.sql("log.db", "UPDATE entry SET sealed = ? WHERE control = 1", (bytes(2**20),))
        assert not vault.check().ok
    with pytest.raises(IntegrityError), lab.open():
        pass


def _failing(error: Exception) -> Callable[..., Any]:
    def fail(*_args: object, **_options: object) -> NoReturn:
        raise error

    return fail


ERRORS = [
    OverflowError("int too big to convert"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range"),
    MemoryError(),
    ValueError("buffer size"),
    KeyError("subject"),
]
PLACES = [
    "facekeep.store.vaultdb.VaultStore.by_slots",
    "facekeep.store.vaultdb.VaultStore.slots_of",
    "facekeep.keys.index.SubjectIndex.lookup",
    "facekeep.access.core.Core.logged",
    "facekeep.sealing.sealer.Sealer.row_key",
    "facekeep.sealing.sealer.Sealer.open_templates",
    "facekeep.access.session.Session.check",
    "facekeep.operations.decide.distance",
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda each: each.rsplit(".", 1)[1])
def test_whatever_fails_is_a_recorded_denial(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    with lab.open() as vault, monkeypatch.context() as broken:
        broken.setattr(place, _failing(error))
        size = core(vault).log.head().size
        with pytest.raises(Unavailable) as caught:
            vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD)
        entry = vault._core.log.entry(size)
        assert (entry["allow"], entry["reason"]) == (False, "unavailable")
        assert caught.value.decision is not None
        assert caught.value.decision.startswith(f"{size}-")


@pytest.mark.parametrize(
    "place",
    [
        "facekeep.matching.gallery.distances",
        "facekeep.matching.members.Members.follow",
        "facekeep.store.vaultdb.VaultStore.by_slots",
        "facekeep.matching.gallery.admit",
    ],
)
def test_whatever_fails_in_a_search_is_a_recorded_denial(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery, monkeypatch.context() as broken:
        broken.setattr(place, _failing(OverflowError("int too big to convert")))
        with pytest.raises(Unavailable) as caught:
            gallery.search(face("alice"), THRESHOLD, 1)
        assert caught.value.decision is not None
        entry = core(vault).log.entry(int(caught.value.decision.split("-")[0]))
        assert (entry["op"], entry["allow"], entry["reason"]) == ("identify", False, "unavailable")


# -- anything in any column of any table, while it is asked

TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "vault.db": {
        "grants": ("slot", "grant_id", "tag", "model", "terms", "commitment", "templates", "record"),
    },
    "keys.db": {
        "top": ("epoch", "fingerprint", "blob"),
        "node": ("id", "epoch", "blob"),
        "subject_index": ("hash", "sealed"),
        "principal": ("slot", "principal", "grant_id", "commitment", "sealed"),
    },
    "log.db": {"grant_entry": ("slot", "idx"), "page": ("first", "sealed"), "tile": ("id", "hashes")},
}
COLUMNS = [
    (file, table, column) for file in TABLES for table in TABLES[file] for column in TABLES[file][table]
]
INTEGERS = {"slot", "epoch", "id", "idx", "first"}
NUMBERS = st.one_of(st.sampled_from(IMPOSSIBLE), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**22))
BLOBS = st.one_of(st.binary(max_size=200), st.integers(0, 2**17).map(bytes))


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Path]:
    lab = Lab(tmp_path_factory.mktemp("junk")).create()
    lab.enrol("alice", "bob")
    return lab, lab.save("base")


def _ask(vault: Vault) -> None:
    """Ask everything of everybody: answers are true, refusals are ours, and each has its entry."""
    for name in ("alice", "bob"):
        before = core(vault).log.head().size
        with contextlib.suppress(FacekeepError):
            assert not vault.verify(name, face("a stranger"), model=MODEL, threshold=THRESHOLD).match
        assert core(vault).log.head().size == before + 1
    try:
        found = vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD)
    except FacekeepError:
        return
    assert [each.subject for each in found.candidates] in ([], ["alice"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(COLUMNS),
    which=st.integers(0, 3),
    number=NUMBERS,
    blob=BLOBS,
    is_opened=st.booleans(),
)
def test_garbage_anywhere_is_refused_with_an_entry(
    field: tuple[Lab, Path],
    place: tuple[str, str, str],
    which: int,
    number: int,
    blob: bytes,
    is_opened: bool,
) -> None:
    lab, base = field
    lab.put_back(base)
    file, table, column = place
    value: object = number if column in INTEGERS else blob.decode("latin-1") if column == "model" else blob
    chosen = f"(SELECT {column} FROM {table} ORDER BY 1 LIMIT 1 OFFSET {which})"
    statement = f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {column} = {chosen}"
    if not is_opened:
        lab.sql(file, statement, (value,))
    try:
        vault = Vault.open(lab.path, token=lab.token, clock=lab.clock)
    except FacekeepError:
        return
    try:
        lab.sql(file, statement, (value,))
        _ask(vault)
        for entry in log_entries(vault):
            assert entry["type"] != "decision" or entry["reason"]
    finally:
        vault.close()
