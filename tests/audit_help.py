"""Logs for the auditor's tests: an honest story that touches every rule, ways to doctor it, exports of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import pytest

from facekeep.audit.replay import replay
from facekeep.audit.report import Report, RuleBroken, Verdict
from facekeep.auditlog.merkle import Frontier, leaf_hash
from facekeep.auditlog.rotation import Keyring, signing_entry
from facekeep.auditlog.setdigest import SetDigest
from facekeep.auditlog.signed import LogSigner
from facekeep.auditlog.tilehash import tile_root
from facekeep.clock import MS_PER_DAY
from facekeep.formats import entries, tiles
from facekeep.formats.canonical import JsonObject
from facekeep.formats.checkpoint import Checkpoint
from facekeep.formats.ids import slot_id
from facekeep.formats.matching import Matching
from facekeep.formats.terms import Scope, Terms
from facekeep.formats.tiles import WIDTH, Bundle, Tile

Entry: TypeAlias = dict[str, Any]

VAULT = b"v" * 16
SIGNER = LogSigner(b"k" * 32, VAULT)
NOW = 1_800_000_000_000
DAY = MS_PER_DAY
MODEL = "raw:lab"
OPERATOR, SERVICE, SECOND = "0" * 15 + "a", "0" * 15 + "b", "0" * 15 + "c"
ALICE, BOB, CAROL, DORA, EVE = (bytes([number]) * 32 for number in range(1, 6))
RECEIPT: JsonObject = {"action": "destroyed", "class": "erasing", "limits": [], "scheme": "file"}


def v(index: int) -> int:
    """A slot of the branch for verify."""
    return slot_id(1, index)


def i(index: int) -> int:
    """A slot of the branch for identify."""
    return slot_id(2, index)


def fresh_v(index: int) -> int:
    """A slot of a branch for verify that a rotation of templates takes."""
    return slot_id(3, index)


def fresh_i(index: int) -> int:
    """The same for identify."""
    return slot_id(4, index)


def grant_id(slot: int) -> bytes:
    return slot.to_bytes(16, "big")


class Window(TypedDict, total=False):
    """What ``terms_of`` takes besides the scope."""

    begins: int
    expires: int
    regions: Sequence[str]
    count: int


def terms_of(
    scope: Scope,
    begins: int = NOW,
    expires: int = NOW + 30 * DAY,
    regions: Sequence[str] = ("DE",),
    count: int = 1,
) -> bytes:
    return Terms(scope, begins, expires, tuple(regions), count, 32, bytes(32)).pack()


def item(
    slot: int, tag: bytes, source: int | None = None, model: str = MODEL, **window: Unpack[Window]
) -> JsonObject:
    scope = Scope.VERIFY if slot >> 21 in {1, 3} else Scope.IDENTIFY
    return entries.grant_item(
        slot=slot,
        grant=grant_id(slot),
        tag=tag,
        commitment=b"c" * 32,
        terms=terms_of(scope, **window),
        model=model,
        source=source,
    )


def set_of(*slots: int) -> str:
    total = SetDigest()
    for slot in slots:
        total.add(slot, grant_id(slot))
    return total.digest().hex()


def fingerprint(epoch: int) -> bytes:
    return epoch.to_bytes(32, "big")


def limits(
    value_e6: int = 500_000, mean_e6: int = 500_000, *, scores: bool = False, top: int = 5
) -> JsonObject:
    """Limits on matching with those of the model that the books use."""
    both: JsonObject = {key: [[MODEL, value_e6, mean_e6]] for key in ("thresholds", "search_thresholds")}
    return Matching().logged() | both | {"scores": scores, "top": top}


class Named(TypedDict, total=False):
    """What a destruction names besides slots."""

    tags: Iterable[bytes]
    voids: Iterable[int]


@dataclass
class Book:
    """Writes a log entry by entry; every method returns the index of its first entry."""

    entries: list[Entry] = field(default_factory=list)
    now: int = NOW
    epoch: int = 1

    def add(self, *items: JsonObject) -> int:
        self.entries.extend(items)
        return len(self.entries) - len(items)

    def genesis(self) -> int:
        return self.add(
            entries.genesis(
                vault_id=VAULT,
                epoch=1,
                fingerprint=fingerprint(1),
                provider_class="erasing",
                scheme="file",
                settings_digest=bytes(32),
                time_ms=self.now,
                matching=limits(),
            )
        )

    def announce_principal(self, identity: str, slot: int, *roles: str, by: str | None = OPERATOR) -> int:
        return self.add(
            entries.principal(
                principal=identity,
                slot=slot,
                grant=grant_id(slot),
                commitment=b"c" * 32,
                roles=roles,
                by=by,
                time_ms=self.now,
            )
        )

    def principal(self, identity: str, slot: int, *roles: str, by: str | None = OPERATOR) -> int:
        first = self.announce_principal(identity, slot, *roles, by=by)
        self.granted(first, by)
        return first

    def announce(self, op: str, *items: JsonObject, by: str | None = OPERATOR) -> int:
        return self.add(*entries.grant_entries(op, items, by=by, time_ms=self.now))

    def granted(self, of: int, by: str | None = OPERATOR) -> int:
        return self.add(entries.granted(of, by=by, time_ms=self.now))

    def recovered(self, of: int) -> int:
        """Let recovery complete what grants."""
        return self.granted(of, None)

    def set_back(self, by_ms: int, wrong_ms: int = 0) -> int:
        """Set the time back; ``wrong_ms`` is by how much it misnames what the log had seen."""
        high, self.now = self.now, self.now - by_ms
        return self.add(entries.clock(high + wrong_ms, by=OPERATOR, time_ms=self.now))

    def grant(self, op: str, *items: JsonObject, by: str | None = OPERATOR) -> int:
        first = self.announce(op, *items, by=by)
        self.granted(first, by)
        return first

    def intend(
        self,
        op: str,
        *slots: int,
        tags: Iterable[bytes] = (),
        voids: Iterable[int] = (),
        by: str | None = OPERATOR,
    ) -> int:
        return self.add(*entries.destroy_entries(op, slots, tags=tags, voids=voids, by=by, time_ms=self.now))

    def destroyed(self, of: int, by: str | None = OPERATOR) -> int:
        self.epoch += 1
        return self.add(
            entries.destroyed(
                of,
                epoch=self.epoch,
                fingerprint=fingerprint(self.epoch),
                previous=fingerprint(self.epoch - 1),
                receipts=[RECEIPT],
                by=by,
                time_ms=self.now,
            )
        )

    def destroy(self, op: str, *slots: int, by: str | None = OPERATOR, **named: Unpack[Named]) -> int:
        first = self.intend(op, *slots, by=by, **named)
        self.destroyed(first, by)
        return first

    def verify(self, slot: int | None, tag: bytes | None, *, reason: str = "ok", by: str = SERVICE) -> int:
        ok = reason == "ok"
        return self.add(
            entries.decision_verify(
                by=by,
                time_ms=self.now,
                reason=reason,
                scope="verify",
                region="DE",
                model=MODEL,
                threshold_e6=500_000 if ok else None,
                tag=tag,
                slot=slot,
                match=True if ok else None,
            )
        )

    def identify(
        self,
        *members: int,
        excluded: int = 0,
        candidates: Sequence[int] = (),
        omitted: Sequence[int] = (),
        by: str = SERVICE,
        region: str = "DE",
    ) -> int:
        return self.add(
            entries.decision_identify(
                by=by,
                time_ms=self.now,
                reason="ok",
                scope="identify",
                region=region,
                model=MODEL,
                threshold_e6=500_000,
                count=len(members),
                set_digest=bytes.fromhex(set_of(*members)),
                candidates=candidates,
                excluded=excluded,
                omitted=omitted,
            )
        )

    def rotation(
        self,
        what: str,
        *,
        by: str | None = OPERATOR,
        below: Mapping[int, int] | None = None,
        model: str | None = None,
    ) -> int:
        return self.add(
            entries.rotation(what, "scheduled", below=below, model=model, by=by, time_ms=self.now)
        )

    def rotated(self, of: int, *, left: int = 0, by: str | None = OPERATOR) -> int:
        return self.add(entries.rotated(of, left=left, by=by, time_ms=self.now))

    def published(self, by: str | None = OPERATOR) -> int:
        size = len(self.entries)
        return self.add(entries.checkpoint(sha256=bytes(32), size=size, by=by, time_ms=self.now))

    def bodies(self) -> list[bytes]:
        return [entries.encode(entry) for entry in self.entries]


def founded() -> Book:
    """A vault with an operator and a service: entries 0 to 4."""
    book = Book()
    book.genesis()
    book.principal(OPERATOR, 16, "operator", by=None)
    book.principal(SERVICE, 17, "service")
    return book


@dataclass
class Story:
    """An honest log, and where its chapters begin."""

    book: Book
    at: dict[str, int]

    def doctored(self, change: Callable[[list[Entry]], object]) -> list[bytes]:
        """Change a copy of the entries, and encode them as anybody who writes the log could."""
        changed = copy.deepcopy(self.book.entries)
        change(changed)
        return [entries.encode(entry) for entry in changed]


def story() -> Story:
    """Every kind of entry that a vault writes, in an order that a vault could write."""
    book, at = founded(), {}
    at["enrol"] = book.grant(
        "enroll",
        item(v(0), ALICE),
        item(i(0), ALICE),
        item(i(1), BOB),
        item(v(1), CAROL),
        item(i(2), CAROL, begins=NOW + DAY),
        item(i(3), DORA, regions=("FR",)),
    )
    at["verify"] = book.verify(v(0), ALICE)
    at["identify"] = book.identify(i(0), i(1), excluded=2, candidates=[i(1)])
    at["withdraw"] = book.destroy("withdraw", v(0))
    at["denied"] = book.verify(v(0), ALICE, reason="destroyed")
    book.now += 1_000
    at["renew"] = book.announce("renew", item(i(4), BOB, i(1), expires=NOW + 60 * DAY))
    at["renewed"] = book.granted(at["renew"])
    at["replaced"] = book.destroy("renew", i(1))
    at["after renewal"] = book.identify(i(0), i(4), excluded=2)
    at["grant"] = book.grant("grant", item(v(2), BOB, i(4)))
    at["replace"] = book.announce("enroll", item(v(3), BOB))
    at["replacing"] = book.granted(at["replace"])
    at["retired"] = book.destroy("reseal", v(2))
    at["shred"] = book.destroy("shred", v(1), i(2), tags=[CAROL])
    at["after shred"] = book.identify(i(0), i(4), excluded=1, candidates=[i(0)])
    at["omitted"] = book.identify(i(4), excluded=2, omitted=[i(0)])
    at["backup"] = book.add(
        entries.backup(rows=4, sha256=bytes(32), size=len(book.entries), by=OPERATOR, time_ms=book.now)
    )
    at["restore"] = book.add(
        entries.restore(
            sha256=bytes(32), rows=9, merged=1, dead=5, present=2, refused=1, missing=0,
            by=OPERATOR, time_ms=book.now,
        )
    )  # fmt: skip
    at["open"] = book.announce("enroll", item(v(4), EVE), item(i(5), EVE))
    at["void"] = book.destroy("void", v(4), i(5), voids=[at["open"]], by=None)
    at["extend"] = book.destroy("extend")
    at["settings"] = book.add(entries.settings(b"s" * 32, bytes(32), by=OPERATOR, time_ms=book.now))
    at["rotate root"] = book.rotation("root")
    book.destroy("rotate")
    at["rotate templates"] = book.rotation("templates", below={2: 5}, model=MODEL)
    at["reseal"] = book.announce("reseal", item(fresh_i(0), BOB, i(4), expires=NOW + 60 * DAY))
    book.granted(at["reseal"])
    at["resealed"] = book.destroy("reseal", i(4))
    at["rotated"] = book.rotated(at["rotate templates"], left=2)
    at["move"] = book.rotation("move")
    book.destroy("rotate")
    at["moved"] = book.rotated(at["move"])
    at["checkpoint"] = book.published()
    at["revoke"] = book.destroy("revoke", 17)
    at["second"] = book.principal(SECOND, 18, "service", "dpo")
    book.now += 40 * DAY
    at["lapsed"] = book.identify(fresh_i(0), excluded=2, by=SECOND)
    at["expire"] = book.destroy("expire", i(0), i(3))
    book.now -= DAY
    at["clock"] = book.add(entries.clock(book.now + DAY, by=OPERATOR, time_ms=book.now))
    at["last"] = book.identify(fresh_i(0), by=SECOND)
    return Story(book, at)


def _rotate(book: Book, kind: str, op: str) -> int | None:
    """Act where the entry is part of a rotation; or begin the rotation that the entry needs."""
    first = None
    if kind == "rotation":
        first = book.rotation("templates", by=SECOND)
    elif kind == "rotated":
        first = book.rotated(book.rotation("move"), by=SECOND)
    elif kind == "checkpoint":
        first = book.published(SECOND)
    elif kind == "signing":
        first = book.rotation("signing", by=SECOND)
        book.add(signing_entry(SIGNER, LogSigner(b"k" * 32, VAULT, 2), by=SECOND, time_ms=book.now))
    elif op == "rotate":
        book.rotation("move")
    elif op == "reseal":
        book.rotation("templates", below={1: 1})
    return first


def act(book: Book, kind: str, op: str) -> int:
    """Let the second principal make an entry of a type and op; returns its index."""
    now, by = book.now, SECOND
    rotating = _rotate(book, kind, op)
    if rotating is not None:
        return rotating
    if kind == "grant":
        source = None if op == "enroll" else v(0)
        slot = {"renew": v(2), "reseal": fresh_v(0)}.get(op, i(0))
        first = book.grant(op, item(slot, CAROL if op == "enroll" else ALICE, source), by=by)
        if op in ("renew", "reseal"):
            book.destroy(op, v(0), by=by)
        return first
    if kind == "destroy":
        slots = {"shred": [v(0)], "withdraw": [v(0)], "revoke": [17], "expire": [v(0)]}.get(op, [])
        if op == "expire":
            book.now += 31 * 86_400_000
        return book.destroy(op, *slots, tags=[ALICE] if op == "shred" else (), by=by)
    if kind == "principal":
        return book.announce_principal("e" * 16, 19, "dpo", by=by)
    if kind == "clock":
        return book.add(entries.clock(now, by=by, time_ms=now - 10_000))
    if kind == "settings":
        return book.add(entries.settings(b"s" * 32, bytes(32), by=by, time_ms=now))
    if kind == "backup":
        return book.add(entries.backup(rows=1, sha256=bytes(32), size=5, by=by, time_ms=now))
    return book.add(
        entries.restore(
            sha256=bytes(32), rows=0, merged=0, dead=0, present=0, refused=0, missing=0, by=by, time_ms=now
        )
    )


def crossed(ed25519: LogSigner, ml_dsa_44: LogSigner) -> LogSigner:
    """Keys of which one is another's: what somebody has who broke one algorithm."""
    made = LogSigner(b"k" * 32, VAULT)
    made._ed25519, made._ml_dsa_44 = ed25519._ed25519, ml_dsa_44._ml_dsa_44
    made.keys = (ed25519.keys[0], ml_dsa_44.keys[1])
    return made


def numbered(signer: LogSigner, generation: int) -> LogSigner:
    """The same keys as those of another generation."""
    made = copy.copy(signer)
    made.generation = generation
    return made


class Given(TypedDict, total=False):
    """What ``replay`` takes besides the entries."""

    checkpoint: Checkpoint
    keyring: Keyring


def broken(bodies: Iterable[bytes], **given: Unpack[Given]) -> RuleBroken:
    """Replay a log that breaks a rule."""
    with pytest.raises(RuleBroken) as caught:
        replay(bodies, **given)
    assert caught.value.report is not None
    said = [step for step in caught.value.report.steps if step.verdict is Verdict.BROKEN]
    assert [step.id for step in said] == [caught.value.rule]
    return caught.value


def expect(bodies: Iterable[bytes], rule: str, index: int | None, **given: Unpack[Given]) -> None:
    """Replay a log that breaks this rule at this entry."""
    error = broken(bodies, **given)
    assert (error.rule, error.index) == (rule, index), str(error)


def honest(book: Book, **given: Unpack[Given]) -> Report:
    return replay(book.bodies(), **given)


def write_export(directory: Path, bodies: Iterable[bytes], signer: LogSigner = SIGNER) -> Checkpoint:
    """Write a log as static tiles, and sign it as its vault would."""
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
    if groups:
        _write(directory / Tile(1, 0, len(groups)).path, b"".join(groups))
    checkpoint = Checkpoint(signer.origin, frontier.size, frontier.root())
    _write(directory / "checkpoint", signer.sign(checkpoint, NOW))
    return checkpoint


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
