"""Attacks through a schema that is changed in the bytes, under the cookie by which SQLite knows it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from facekeep.errors import FacekeepError, IntegrityError, Unavailable
from facekeep.store import logdb
from facekeep.store.bulk import insert_many
from facekeep.store.connect import Connection, authorize
from facekeep.store.sqlite import Database
from facekeep.vault import Vault
from vaultlab import MODEL, THRESHOLD, Lab, core, face

SWALLOW = "CREATE TRIGGER quiet BEFORE INSERT ON {} BEGIN SELECT RAISE(IGNORE); END"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    return lab


def ask(vault: Vault) -> str:
    return vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD).decision


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Write to the schema table, and leave the cookie as it is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        cookie = connection.execute("PRAGMA schema_version").fetchone()[0]
        connection.execute("PRAGMA writable_schema=ON")
        yield connection
        connection.execute(f"PRAGMA schema_version={cookie}")


def plant(path: Path, sql: str, table: str) -> None:
    with raw(path) as connection:
        connection.execute(
            "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)"
            " VALUES ('trigger', 'quiet', ?, 0, ?)",
            (table, sql),
        )


def edit(path: Path, old: str, new: str) -> None:
    """Change a table's text in place."""
    with raw(path) as connection:
        changed = connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE instr(sql, ?)", (old, new, old)
        )
        assert changed.rowcount


def in_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Change the file itself, under no lock and past the WAL."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert data.count(old) == 1
    with path.open("r+b") as file:
        file.seek(data.index(old))
        file.write(new)


EDITS = [
    ("log.db", "leaf BLOB NOT NULL", "leaf BLOB NOT NULL UNIQUE ON CONFLICT IGNORE"),
    ("log.db", "control INTEGER NOT NULL", "control INTEGER NOT NULL UNIQUE ON CONFLICT IGNORE"),
    ("log.db", "WHERE control = 1", "WHERE control = 2"),
    ("log.db", "chain BLOB NOT NULL)", "chain BLOB NOT NULL, d AS (leaf))"),
    ("keys.db", "STRICT", ""),
    ("vault.db", "STRICT", ""),
]


@pytest.mark.parametrize(("name", "old", "new"), EDITS)
def test_a_table_whose_text_was_changed_under_its_cookie_is_refused(
    lab: Lab, name: str, old: str, new: str
) -> None:
    edit(lab.path / name, old, new)
    with pytest.raises(IntegrityError):
        lab.do(ask)


def test_a_view_in_the_place_of_a_table_is_refused(lab: Lab) -> None:
    with raw(lab.path / "vault.db") as connection:
        connection.execute(
            "UPDATE sqlite_schema SET type = 'view', rootpage = 0,"
            " sql = 'CREATE VIEW grants AS SELECT 1 AS slot' WHERE name = 'grants'"
        )
        connection.execute("DELETE FROM sqlite_schema WHERE type = 'index'")
    with pytest.raises(IntegrityError):
        lab.do(ask)


@pytest.mark.parametrize(
    ("name", "table"), [("log.db", "entry"), ("keys.db", "node"), ("vault.db", "grants")]
)
def test_a_trigger_under_the_same_cookie_never_runs_in_another_thread_or_process(
    lab: Lab, name: str, table: str
) -> None:
    with lab.open() as vault:
        ask(vault)
        plant(lab.path / name, SWALLOW.format(table), table)
        with pytest.raises(IntegrityError):
            Vault.open(lab.path, token=lab.token, clock=lab.clock)


def test_a_trigger_under_the_same_cookie_swallows_no_decision_of_an_open_vault(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)
        size = core(vault).log.head().size
        plant(lab.path / "log.db", SWALLOW.format("entry"), "entry")
        ask(vault)  # by the schema it began with
        assert core(vault).log.head().size == size + 1
        core(vault).log.verify()


def test_a_new_thread_does_not_begin_with_a_planted_schema(lab: Lab) -> None:
    with lab.open() as vault:
        database = core(vault).data.database
        plant(lab.path / "vault.db", SWALLOW.format("grants"), "grants")
        with pytest.raises(IntegrityError, match="not facekeep's"):
            database._link()


def test_a_changed_cookie_ends_writing_even_when_it_is_put_back(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)
        with raw(lab.path / "log.db") as connection:
            before = connection.execute("PRAGMA schema_version").fetchone()[0]
            connection.execute(f"PRAGMA schema_version={before + 1}")
            with pytest.raises(Unavailable, match="not facekeep's"):
                ask(vault)
        with pytest.raises(Unavailable, match="stopped answering"):
            ask(vault)


def test_what_a_trigger_or_view_would_do_is_refused_when_it_is_compiled(lab: Lab) -> None:
    with lab.open() as vault:
        database = core(vault).data.database
        connection = database.connection()
        connection.set_authorizer(None)
        connection.execute("CREATE TEMP VIEW v AS SELECT slot FROM grants")
        connection.execute("CREATE TEMP TRIGGER t BEFORE DELETE ON grants BEGIN SELECT RAISE(IGNORE); END")
        assert isinstance(connection, Connection)
        authorize(connection)
        for statement in ("SELECT * FROM v", "DELETE FROM grants", "ATTACH ':memory:' AS other"):
            with pytest.raises(sqlite3.DatabaseError, match=r"prohibited|not authorized"):
                connection.execute(statement)


def test_a_conflict_clause_in_a_parsed_schema_swallows_no_row(tmp_path: Path) -> None:
    with closing(logdb.create_log(tmp_path / "log.db", bytes(16))) as database:
        row = logdb.Row(0, 1, b"b", b"l", b"c")
        connection = database.connection()
        connection.set_authorizer(None)
        connection.execute("CREATE UNIQUE INDEX once ON entry (control)")
        connection.execute("PRAGMA writable_schema=ON")
        logdb.insert_rows(connection, [row])
        with pytest.raises(IntegrityError, match="schema was changed"):
            insert_many(
                connection,
                "INSERT OR IGNORE INTO entry (idx, control, sealed, leaf, chain)",
                [row._replace(idx=1)],
            )


def test_a_byte_of_the_schema_changed_in_the_file_of_a_running_vault_is_refused_by_the_next(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)
    text = b"CREATE INDEX entry_control ON entry (idx) WHERE control = "
    in_bytes(lab.path / "log.db", text + b"1", text + b"0")
    with pytest.raises(FacekeepError):
        lab.do(ask)


def test_a_byte_of_the_schema_changed_in_the_file_while_it_is_open(lab: Lab) -> None:
    with lab.open() as vault:
        ask(vault)
        in_bytes(
            lab.path / "vault.db",
            b'CREATE INDEX "idx_grants_tag"\n    ON "grants" ("tag")',
            b'CREATE INDEX "idx_grants_tag"\n    ON "grants" (terms)',
        )
        with pytest.raises(IntegrityError):
            Database._link(core(vault).data.database)
