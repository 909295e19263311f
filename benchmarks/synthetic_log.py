"""An honest log of any length, made without a vault, and its export as static tiles."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.setdigest import SetDigest
from facekeep.auditlog.signed import LogSigner
from facekeep.auditlog.tilehash import tile_root
from facekeep.clock import MS_PER_DAY
from facekeep.formats import entries, tiles
from facekeep.formats.canonical import JsonObject, encode_trusted
from facekeep.formats.checkpoint import Checkpoint, origin_of
from facekeep.formats.ids import BRANCH_SLOTS, slot_id
from facekeep.formats.terms import Scope, Terms
from facekeep.formats.tiles import WIDTH, Bundle, Tile

VAULT = b"v" * 16
SIGNER = LogSigner(b"k" * 32, VAULT)
START = 1_800_000_000_000
MODEL = "raw:bench"
OPERATION = 1_600  # grants enrolled in one operation
RECEIPT: JsonObject = {"action": "destroyed", "class": "erasing", "limits": [], "scheme": "file"}


class SyntheticLog:
    """Yields the exact bytes of entries; what it grants lives on, is withdrawn, lapses."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self.index = 0
        self._time_ms = START
        self._operator, self._service = self._hex(8), self._hex(8)
        self._used = {Scope.VERIFY: 0, Scope.IDENTIFY: 0}
        self._subjects: list[bytes] = []
        self._slots: dict[int, tuple[bytes, bytes]] = {}  # verify slots: tag, grant id
        self._order: list[int] = []
        self._set = SetDigest()
        self._members: dict[bytes, tuple[int, bytes]] = {}  # tag: identify slot, grant id
        self._epoch, self._root = 1, hashlib.sha256(b"root 1").digest()

    def begin(self) -> Iterator[bytes]:
        yield self._put(
            entries.genesis(
                vault_id=VAULT,
                epoch=1,
                fingerprint=self._root,
                provider_class="erasing",
                scheme="file",
                settings_digest=bytes(32),
                time_ms=self._time_ms,
            )
        )
        for number, (identity, role) in enumerate(((self._operator, "operator"), (self._service, "service"))):
            by = self._operator if number else None
            first = self.index
            yield self._put(
                entries.principal(
                    principal=identity,
                    slot=16 + number,
                    grant=self._bytes(16),
                    commitment=self._bytes(32),
                    roles=[role],
                    by=by,
                    time_ms=self._time_ms,
                )
            )
            yield self._put(entries.granted(first, by=by, time_ms=self._time_ms))

    def enrol(self, grants: int) -> Iterator[bytes]:
        """As many grants, half for verify and half for identify, a subject having one of each."""
        while grants > 0:
            now = self._tick()
            items = []
            for _ in range(min(grants, OPERATION) // 2 or 1):
                tag = self._bytes(32)
                items += [self._item(scope, tag, now) for scope in (Scope.VERIFY, Scope.IDENTIFY)]
            first = self.index
            for entry in entries.grant_entries("enroll", items, by=self._operator, time_ms=now):
                yield self._put(entry)
            yield self._put(entries.granted(first, by=self._operator, time_ms=now))
            grants -= len(items)

    def decide(self, count: int) -> Iterator[bytes]:
        """Decisions: one in ten 1:N, one in twenty denied; one in 2,000 is a withdrawal instead."""
        for number in range(count):
            if number % 2_000 == 1_999 and self._order:
                yield from self._withdraw()
            elif number % 20 == 0:
                yield self._put(self._verify("subject_unknown"))
            elif number % 10 == 5:
                yield self._put(self._identify())
            else:
                yield self._put(self._verify("ok"))

    def _item(self, scope: Scope, tag: bytes, now: int) -> JsonObject:
        number = self._used[scope]
        self._used[scope] += 1
        slot, grant = (
            slot_id(int(scope) - 1 + 8 * (number // BRANCH_SLOTS), number % BRANCH_SLOTS),
            self._bytes(16),
        )
        terms = Terms(scope, now, now + 300 * MS_PER_DAY, ("DE", "EU"), 1, 128, self._bytes(32)).pack()
        if scope is Scope.VERIFY:
            self._slots[slot] = (tag, grant)
            self._order.append(slot)
        else:
            self._set.add(slot, grant)
            self._members[tag] = (slot, grant)
        return entries.grant_item(
            slot=slot, grant=grant, tag=tag, commitment=self._bytes(32), terms=terms, model=MODEL
        )

    def _verify(self, reason: str) -> JsonObject:
        ok = reason == "ok"
        slot = self._random.choice(self._order) if ok else None
        return entries.decision_verify(
            by=self._service,
            time_ms=self._tick(),
            reason=reason,
            scope="verify",
            region="DE",
            model=MODEL,
            threshold_e6=500_000 if ok else None,
            tag=self._slots[slot][0] if slot is not None else None,
            slot=slot,
            match=True if ok else None,
            nonce=self._hex(16),
        )

    def _identify(self) -> JsonObject:
        return entries.decision_identify(
            by=self._service,
            time_ms=self._tick(),
            reason="ok",
            scope="identify",
            region="DE",
            model=MODEL,
            threshold_e6=500_000,
            count=len(self._members),
            set_digest=self._set.digest(),
            candidates=[],
            excluded=0,
            omitted=[],
            nonce=self._hex(16),
        )

    def _withdraw(self) -> Iterator[bytes]:
        """Both scopes of one subject, and the root's replacement."""
        now = self._tick()
        at = self._random.randrange(len(self._order))
        self._order[at], self._order[-1] = self._order[-1], self._order[at]
        slot = self._order.pop()
        tag, _ = self._slots.pop(slot)
        other, grant = self._members.pop(tag)
        self._set.remove(other, grant)
        first = self.index
        for entry in entries.destroy_entries("withdraw", [slot, other], by=self._operator, time_ms=now):
            yield self._put(entry)
        previous, self._epoch = self._root, self._epoch + 1
        self._root = self._bytes(32)
        yield self._put(
            entries.destroyed(
                first,
                epoch=self._epoch,
                fingerprint=self._root,
                previous=previous,
                receipts=[RECEIPT],
                by=self._operator,
                time_ms=now,
            )
        )

    def _put(self, entry: JsonObject) -> bytes:
        self.index += 1
        return encode_trusted(entry)

    def _tick(self) -> int:
        self._time_ms += self._random.randrange(40)
        return self._time_ms

    def _bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def _hex(self, count: int) -> str:
        return self._bytes(count).hex()


def mixed(size: int, grants: int) -> Iterator[bytes]:
    """A log of ``size`` entries that begins with so many grants; the rest are decisions."""
    log = SyntheticLog()
    yield from itertools.islice(itertools.chain(log.begin(), log.enrol(grants), log.decide(size)), size)


def granted(grants: int) -> Iterator[bytes]:
    """A log of so many grants, with three searches through all of them."""
    log = SyntheticLog()
    yield from itertools.chain(log.begin(), log.enrol(grants), log.decide(100))


def export(directory: Path, bodies: Iterable[bytes]) -> Checkpoint:
    """Write a log as static tiles and sign its checkpoint."""
    iterator, groups, frontier = iter(bodies), [], Frontier()
    for number in itertools.count():
        bundle = list(itertools.islice(iterator, WIDTH))
        if not bundle:
            break
        leaves = [leaf_hash(body) for body in bundle]
        for leaf in leaves:
            frontier.append(leaf)
        _write(directory / Bundle(number, len(bundle)).path, tiles.encode_bundle(bundle))
        _write(directory / Tile(0, number, len(leaves)).path, b"".join(leaves))
        if len(leaves) == WIDTH:
            groups.append(tile_root(leaves))
    level = 1
    while groups:
        for number in range(-(-len(groups) // WIDTH)):
            part = groups[number * WIDTH : (number + 1) * WIDTH]
            _write(directory / Tile(level, number, len(part)).path, b"".join(part))
        groups = [tile_root(groups[at : at + WIDTH]) for at in range(0, len(groups) - WIDTH + 1, WIDTH)]
        level += 1
    checkpoint = Checkpoint(origin_of(VAULT), frontier.size, frontier.root())
    _write(directory / "checkpoint", SIGNER.sign(checkpoint, START))
    return checkpoint


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
