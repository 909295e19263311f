"""A log on disk with a clock of its own, for the tests of auditlog/."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from facekeep.auditlog.log import AuditLog
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject
from facekeep.store import logdb

VAULT = b"v" * 16
KEY = b"k" * 32
NOW = 1_700_000_000_000
BRANCH = 2 << 21
BY = "0123456789abcdef"
FINGERPRINT = b"f" * 32
DAMAGED = "CAST(substr(sealed, 1, 40) || x'01020304' || substr(sealed, 45) AS BLOB)"  # of the sealed column


class FakeClock:
    def __init__(self, now_ms: int = NOW) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms


def genesis(time_ms: int = NOW) -> JsonObject:
    return entries.genesis(
        vault_id=VAULT,
        epoch=1,
        fingerprint=FINGERPRINT,
        provider_class="erasing",
        scheme="file",
        settings_digest=b"s" * 32,
        time_ms=time_ms,
    )


def item(slot: int, source: int | None = None) -> JsonObject:
    return entries.grant_item(
        slot=slot,
        grant=(slot % 2**64).to_bytes(16, "big"),
        tag=b"t" * 32,
        commitment=b"c" * 32,
        terms=b"z" * 88,
        model="dlib/1",
        source=source,
    )


def grants(*slots: int, op: str = "enroll", time_ms: int = NOW) -> list[JsonObject]:
    return entries.grant_entries(op, [item(slot) for slot in slots], by=BY, time_ms=time_ms)


def granted(of: int, time_ms: int = NOW) -> JsonObject:
    return entries.granted(of, by=BY, time_ms=time_ms)


def destroy(
    *slots: int, op: str = "shred", voids: Sequence[int] = (), time_ms: int = NOW
) -> list[JsonObject]:
    return entries.destroy_entries(op, slots, tags=[b"t" * 32], voids=voids, by=BY, time_ms=time_ms)


def destroyed(of: int, epoch: int = 2, previous: bytes = FINGERPRINT, new: bytes = b"g" * 32) -> JsonObject:
    receipt: JsonObject = {"class": "erasing", "scheme": "file", "action": "dropped", "limits": ["ssd"]}
    return entries.destroyed(
        of,
        epoch=epoch,
        fingerprint=new,
        previous=previous,
        receipts=[receipt],
        by=BY,
        time_ms=NOW,
    )


def decision(*, reason: str = "ok", time_ms: int = NOW, slot: int = BRANCH) -> JsonObject:
    ok = reason == "ok"
    return entries.decision_verify(
        by=BY,
        time_ms=time_ms,
        reason=reason,
        scope="verify",
        region="EU",
        model="dlib/1",
        threshold_e6=360_000 if ok else None,
        tag=b"t" * 32,
        slot=slot,
        match=True if ok else None,
    )


class Lab:
    """A log in ``directory`` that can be opened twice, attacked on disk and opened again."""

    def __init__(self, directory: Path, *copies: Path) -> None:
        self.path = directory / "log.db"
        self.copies = copies
        self.clock = FakeClock()
        self.log = AuditLog.create(
            logdb.create_log(self.path, VAULT), copies, KEY, VAULT, self.clock, genesis=genesis()
        )

    def open(self) -> AuditLog:
        return AuditLog(logdb.open_log(self.path, VAULT), self.copies, KEY, VAULT, self.clock)

    def reopen(self) -> AuditLog:
        self.log.close()
        self.log = self.open()
        return self.log

    def decide(self, count: int = 1, log: AuditLog | None = None) -> int:
        log = log or self.log
        seq = log.head().control_seq
        return [
            log.decide(decision(), control_seq=seq, valid_until_ms=2**53, allow=True) for _ in range(count)
        ][-1]

    def grant(self, *slots: int) -> int:
        first = self.log.append(grants(*slots))[0]
        self.log.append([granted(first)])
        return first

    def attack(self, *statements: str) -> None:
        """Change the closed file, as somebody with write access would."""
        self.log.close()
        connection = sqlite3.connect(self.path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        connection.close()

    def save(self, to: Path) -> Path:
        """Copy the file as it stands, with what is in its WAL."""
        source, target = sqlite3.connect(self.path), sqlite3.connect(to)
        source.backup(target)
        source.close()
        target.close()
        return to

    def put_back(self, saved: Path) -> None:
        """Replace the closed file by a saved one."""
        self.log.close()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(saved, self.path)
