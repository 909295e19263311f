"""Making a shredding proof: find the subject's grants and their ends, prove each entry (SPEC §12).

Works after the subject is gone: what is needed stands in the log. Before it leaves, a bundle is verified as
an auditor would.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias, cast

from facekeep.access.core import Core
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.arguments import checks_arguments
from facekeep.audit.bundle import DOMAIN, verify
from facekeep.audit.proven import Proven
from facekeep.auditlog.tree import Snapshot
from facekeep.errors import ErasurePending, FormatError, UsageError
from facekeep.formats import entries
from facekeep.formats.bundle import MAX_ENTRIES, Held, ShreddingProof, Statement
from facekeep.formats.canonical import JsonObject
from facekeep.formats.entryrules import Reason
from facekeep.formats.note import Note
from facekeep.formats.terms import Scope, Terms
from facekeep.operations import auditing

Progress = Callable[[int, int], None]
Entry: TypeAlias = dict[str, Any]

_GRANT = b'"type":"grant",'  # no string in an entry holds a quotation mark
_DESTROY = b'"type":"destroy",'
_ROOTS = (b'"type":"destroyed",', b'"type":"genesis",', b'"type":"restart",')
_BACKUP = b'"type":"backup",'
_OFTEN = 1_000  # entries between two looks at the clock
_ASK = "name the erasure's log entry, the subject tag, or the file of the person's receipt"


@checks_arguments
@dataclass(frozen=True, slots=True)
class Said:
    """What the operator says in a proof; None becomes "not stated"."""

    organization: str | None = None
    role: str | None = None
    media: str | None = None
    exported: str | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """A finished bundle, and what its verification found."""

    data: bytes
    proven: Proven


def prove(
    core: Core,
    session: Session,
    tag: bytes,
    said: Said | None = None,
    progress: Progress | None = None,
    scopes: Sequence[Scope] = (),
) -> Proof:
    """Make the proof that every grant of a subject tag was destroyed; with ``scopes``, of their withdrawal.

    Raises UsageError where the log knows no such tag, or grants of it still live; ErasurePending.
    """
    session.require(Action.LOG)
    _statement(core, said, 0)  # what cannot be said is refused before the log is read
    words = tuple(sorted({scope.word for scope in scopes}))
    trail = _Trail(tag.hex(), words)
    trail.follow(core, progress)
    first = trail.erasure()
    with auditing.signing(core) as checkpoints:
        snapshot = checkpoints.snapshot(progress)
        now = core.clock.now_ms()
        note = checkpoints.make(snapshot, now)
        held = tuple(_held(snapshot, index, trail.kept[index]) for index in sorted(trail.kept))
        if len(held) > MAX_ENTRIES:
            raise UsageError(
                f"the subject has more than {MAX_ENTRIES} entries in the log: too many for a proof"
            )
        bundle = ShreddingProof(
            core.vault_id,
            tag,
            first,
            now,
            Note.parse(note),
            held,
            _statement(core, said, trail.backups),
            words,
        )
        keys = auditing.signer(core, checkpoints, snapshot)
        signed = bundle.signed(keys.sign_raw(DOMAIN + bundle.unsigned()))
    data = signed.encode()
    return Proof(data, verify(data, keys.keys))


def tag_of(core: Core, session: Session, what: str) -> bytes:
    """Subject tag of 64 hex digits, or of an erasure's log index; raises UsageError.

    A living subject's id is told apart from an unknown one only to whoever may list subjects.
    """
    session.require(Action.LOG)
    if len(what) == 64 and set(what) <= set("0123456789abcdef"):  # noqa: PLR2004 - 32 bytes in hex
        return bytes.fromhex(what)
    if what.isascii() and what.isdigit() and len(what) < 16 and int(what) < core.log.head().size:  # noqa: PLR2004 - below 2^53
        found = _tags_of_erasure(core, int(what))
        if len(found) == 1:
            return bytes.fromhex(found.pop())
        if found:
            raise UsageError(
                f"log entry {what} erased {len(found)} subjects, and a proof is for one of them",
                next="name the subject tag, or the file of the person's receipt",
            )
    view = core.view()
    if session.check(view, Action.SUBJECTS) is Reason.OK and _is_living(core, what):
        raise UsageError(
            "that person is enrolled, not erased",
            next="shred first, then name the log entry; of a withdrawal give the receipt and --scope",
        )
    raise UsageError("nothing erased is known under that name", next=_ASK)


def _is_living(core: Core, subject: str) -> bool:
    try:
        return core.index.lookup(core.handles.of(subject.encode())) is not None
    except UnicodeEncodeError:
        return False


def _tags_of_erasure(core: Core, index: int) -> set[str]:
    """Tags a destruction erased, by its own words or by the grants that held its slots."""
    entry = cast("Entry", core.log.entry(index))
    if entry["type"] != "destroy":
        return set()
    first = index - entry["part"] + 1
    parts = [cast("Entry", core.log.entry(at)) for at in range(first, first + entry["parts"])]
    tags = {tag for part in parts for tag in part["tags"]}
    if tags:
        return tags
    for start, count in (span for part in parts for span in part["slots"]):
        for slot in range(start, start + count):
            found = core.log.entry_of_slot(slot)
            elements = cast("list[Entry]", found[1].get("grants", [])) if found is not None else []
            tags |= {each["tag"] for each in elements if each["slot"] == slot}
            if len(tags) > 1:
                return tags
    return tags


@dataclass
class _Trail:
    """What the log says about one tag; two passes over its control entries."""

    tag: str
    scopes: tuple[str, ...] = ()  # of a withdrawal; none: all
    slots: dict[int, int] = field(default_factory=dict)  # slot -> entry that granted it
    kept: dict[int, Entry] = field(default_factory=dict)  # by index: what goes into the bundle
    backups: int = 0
    _ended: dict[int, int] = field(default_factory=dict)  # slot -> first entry of what destroys it
    _named: int | None = None  # first entry of the shred that names the tag
    _withdrawn: int | None = None  # first entry of the last withdrawal of a slot
    _done: dict[int, int] = field(default_factory=dict)  # first entry -> its completion
    _before: dict[int, tuple[int, Entry]] = field(default_factory=dict)  # first entry -> the root replaced
    _root: tuple[int, Entry] = (0, {})  # last entry that showed a root

    def follow(self, core: Core, progress: Progress | None) -> None:
        """Read the log; raises UsageError where it does not know the tag."""
        for index, body in _told(core, progress, 0):
            self._grant(index, body)
        if not self.slots:
            raise UsageError("the log knows no subject by that tag", next="check the receipt and the vault")
        for index, body in _told(core, progress, 1):
            if _DESTROY in body:
                self._destroy(index, cast("Entry", entries.parse(body)))
            elif any(kind in body for kind in _ROOTS):
                self._replace_root(index, cast("Entry", entries.parse(body)))
            elif _BACKUP in body:
                self.backups += 1

    def _grant(self, index: int, body: bytes) -> None:
        if _GRANT not in body or self.tag.encode() not in body:
            return
        entry = cast("Entry", entries.parse(body))
        mine = [each["slot"] for each in entry["grants"] if each["tag"] == self.tag and self._means(each)]
        if mine:
            self.slots |= dict.fromkeys(mine, index)
            self.kept[index] = entry

    def _means(self, item: Entry) -> bool:
        return not self.scopes or Terms.unpack(bytes.fromhex(item["terms"])).scope.word in self.scopes

    def _destroy(self, index: int, entry: Entry) -> None:
        first = index - entry["part"] + 1
        mine = [
            slot
            for slot in self.slots
            if slot not in self._ended
            and any(start <= slot < start + count for start, count in entry["slots"])
        ]
        names = self.tag in entry["tags"]
        if mine or names:
            self.kept[index] = entry
            self._ended |= dict.fromkeys(mine, first)
            if names and entry["op"] == "shred":
                self._named = first
            if mine and entry["op"] == "withdraw":
                self._withdrawn = first

    def _replace_root(self, index: int, entry: Entry) -> None:
        first = entry.get("of")
        if first is None:
            self.kept[index] = entry  # the genesis entry, or the restart
        elif first == self._named or first in self._ended.values():
            self.kept[index] = entry
            self._done[first] = index
            self._before[first] = self._root
        self._root = index, entry

    def erasure(self) -> int:
        """First entry of what erased the subject: what ended its last slot.

        With scopes: their last withdrawal. Raises UsageError while grants live, ErasurePending.
        """
        if self.scopes:
            self._leave_out_later()
        living = [slot for slot in self.slots if slot not in self._ended]
        if living:
            raise UsageError(
                f"{len(living)} of the subject's {len(self.slots)} grants were never destroyed",
                next="shred the subject, then make the proof; that of a withdrawal takes --scope",
            )
        named = self._withdrawn if self.scopes else self._named
        wanted = {*self._ended.values(), *({named} - {None})}
        if not wanted <= set(self._done):
            raise ErasurePending("the subject's erasure was begun and is not finished")
        found = max(self._done, key=self._done.__getitem__)
        if self.scopes and found != named:
            raise self._not_all()
        index, entry = self._before[found]
        self.kept[index] = entry
        return found

    def _leave_out_later(self) -> None:
        """Keep of a withdrawal what was granted before it; raises UsageError where there was none."""
        if self._withdrawn is None:
            raise UsageError(
                f"no consent of that person to {' or '.join(self.scopes)} was withdrawn",
                next="for an erasure leave --scope out",
            )
        cut = self._withdrawn
        self.slots = {slot: index for slot, index in self.slots.items() if index < cut}
        self._ended = {slot: first for slot, first in self._ended.items() if slot in self.slots}
        if any(
            first > cut for first in self._ended.values()
        ):  # it lived on, and was renewed, say, or shredded
            raise self._not_all()
        self._done = {first: index for first, index in self._done.items() if first in self._ended.values()}
        meant = {0, *self.slots.values(), *self._done.values()}
        self.kept = {
            index: entry
            for index, entry in self.kept.items()
            if index in meant or (entry["type"] == "destroy" and index - entry["part"] + 1 in self._done)
        }

    def _not_all(self) -> UsageError:
        return UsageError(
            f"not every consent of that person to {' or '.join(self.scopes)} was withdrawn",
            next="name the scopes that were withdrawn; for an erasure leave --scope out",
        )


def _told(core: Core, progress: Progress | None, before: int) -> Iterator[tuple[int, bytes]]:
    """Control entries, with progress; ``before`` passes of two were made already."""
    size = core.log.head().size
    for index, body in core.log.control_bodies(0):
        if progress is not None and index % _OFTEN == 0:
            progress((before * size + index) // 2, size)
        yield index, body


def _held(snapshot: Snapshot, index: int, entry: Entry) -> Held:
    return Held(index, cast("JsonObject", entry), snapshot.inclusion(index))


def _statement(core: Core, said: Said | None, backups: int) -> Statement:
    holders = ", ".join(f"{each.scheme} ({each.klass})" for each in core.providers)
    stated = Statement(
        importlib.metadata.version("facekeep"),
        media=f"root key held by {holders}",
        live=len(core.settings.copies),
        mirrors=sum(each.klass != "recovery" for each in core.providers) - 1,
        recovery_keys=sum(each.klass == "recovery" for each in core.providers),
        backups=backups,
    )
    given = {} if said is None else {key: value for key, value in asdict(said).items() if value is not None}
    whole = replace(stated, **given)
    try:
        return Statement.from_json(whole.to_json())
    except FormatError as error:
        raise UsageError(str(error)) from None
