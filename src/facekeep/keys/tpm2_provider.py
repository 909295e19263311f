"""The ``tpm2:`` provider: roots sealed in a TPM 2.0, each up to a bound of an NV counter (SPEC §4.4).

A root opens while the counter stands at its bound or below. Incrementing the counter past the bound destroys
it, in every copy of the holder file: the counter cannot go back. So the rule of this module: before it moves,
what is to live is sealed under a higher bound, durably; and it never passes the bound of what is to live.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final, Self

from facekeep.crypto.primitives import compare
from facekeep.errors import FormatError, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.nodes import root_fingerprint
from facekeep.formats.tpm2 import SealedRoot, decode_sealed, default_index, parse_address
from facekeep.keys.provider import Candidate, Place, ProviderClass, Receipt
from facekeep.keys.sealed_holder import KeyGone, SealedHolder
from facekeep.keys.tpm2_commands import Counter, CounterAhead, make_parent, seal, unseal
from facekeep.keys.tpm2_tools import Sitting, sitting, take
from facekeep.store.holderfile import default_path
from facekeep.store.sqlite import translated

_FARTHEST: Final = 64  # steps that a bound may be ahead of the counter: more was not written by us
_REREADS: Final = 8  # swaps that a reader may meet before it gives up
_AHEAD: Final = (
    "put back the newest copy of the holder file; a root that the counter has passed stays closed, "
    "so without one open the vault by a mirror or the recovery key"
)
_ELSEWHERE: Final = "the root was sealed by another TPM, or this TPM was cleared since"
_TAKEN: Final = "choose another with nv= in the URI; if nothing uses it any more: tpm2_nvundefine -C o {0}"


class _Seat:
    """A sitting with the vault's counter and, when it is first asked for, the parent key."""

    def __init__(self, bench: Sitting, counter: Counter) -> None:
        self.counter = counter
        self._bench = bench
        self._parent = b""

    def parent(self) -> bytes:
        """Name of the parent key, which is in the TPM from now on."""
        self._parent = self._parent or make_parent(self._bench)
        return self._parent

    def seal(self, root: bytes, bound: int) -> SealedRoot:
        return seal(self._bench, self.counter, self.parent(), bound, root)

    def unseal(self, sealed: SealedRoot) -> bytes:
        return unseal(self._bench, self.counter, self.parent(), sealed)


class Tpm2Provider(SealedHolder):
    """Roots bound to a counter in a TPM. Erasing: see ``limits``."""

    scheme: ClassVar[str] = "tpm2"
    klass: ClassVar[ProviderClass] = "erasing"
    limits: ClassVar[tuple[str, ...]] = ("tpm_firmware", "tpm_state_copy")

    def __init__(self, place: Place, file: Path, tcti: str, index: int) -> None:
        """Keep where everything is: holder file, transport, NV index. Nothing is asked of the TPM."""
        super().__init__(place, file)
        self.tcti, self.index = tcti, index
        self._made = self._ahead = False

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> Self:
        """``tpm2:nv=0x01812abc;tcti=device:/dev/tpmrm0?file=PATH``; every part may be left out."""
        try:
            address = parse_address(rest)
            file = (
                default_path(place.vault_id, cls.scheme)
                if address.file is None
                else place.base / Path(address.file).expanduser()
            )
        except (FormatError, RuntimeError) as error:
            raise UsageError(
                f"the tpm2: URI is not acceptable: {error}",
                next="write tpm2:nv=0x01812abc;tcti=device:/dev/tpmrm0?file=PATH, or leave parts out",
            ) from error
        index = default_index(place.vault_id) if address.index is None else address.index
        return cls(place, file, address.tcti, index)

    # The provider.

    def provision(self, root: bytes) -> None:
        """Make the counter, then seal the first root; RootError where its index is taken."""
        self._made = False
        try:
            super().provision(root)
        except BaseException:
            if self._made:
                with contextlib.suppress(RootError):
                    self._end()
            raise

    def candidates(self) -> tuple[Candidate, ...]:
        """Roots that the TPM opens. A file that a swap replaced meanwhile is read again."""
        for _ in range(_REREADS):
            before, self._ahead = self.file.read(), False
            try:
                return super().candidates()
            except RootError as error:
                if self.file.read() == before:
                    raise RootError(str(error), next=_AHEAD if self._ahead else error.next) from error
        raise RootError("the tpm2: holder file changes faster than it can be read")

    def stage(self, root: bytes) -> None:
        """Seal ``root`` one step above every bound, so that it opens now and after it is promoted."""
        mark = root_fingerprint(self.place.vault_id, root)
        if any(each.state == "staged" and each.fingerprint != mark for each in self.file.read()):
            self._forget_dead()
        super().stage(root)

    def abandon(self) -> Receipt:
        """Destroy every root held, and remove the counter."""
        receipt = super().abandon()
        self._end()
        return receipt

    # What a record's key is: a bound that the counter has not passed.

    def _begin(self) -> None:
        with self._counting() as seat:
            try:
                taken = f"the TPM has this vault's counter already, at NV index {seat.counter.handle}"
                free = not seat.counter.exists()
            except KeyGone as error:
                taken, free = str(error), False
            if not free:
                raise RootError(taken, next=_TAKEN.format(seat.counter.handle))
            self._made = True
            seat.counter.begin()

    def _end(self) -> None:
        with self._seated() as seat, contextlib.suppress(KeyGone):  # one of another's stays
            if seat.counter.exists():
                seat.counter.undefine()

    def _seal(self, root: bytes, fingerprint: bytes) -> JsonObject:
        del fingerprint
        records = self.file.read()
        with self._counting() as seat:
            stands = seat.counter.read()
            bound = max(stands, *_bounds(records, stands)) + 1 if records else stands
            if any(_decode(each.sealed).parent != seat.parent() for each in records):
                raise RootError(_ELSEWHERE, next="bring back the TPM that sealed it")
            return seat.seal(root, bound).to_json()

    def _unseal(self, sealed: JsonObject, fingerprint: bytes) -> bytes:
        del fingerprint
        with self._seated() as seat:
            try:
                return seat.unseal(_decode(sealed))
            except CounterAhead:
                self._ahead = True
                raise

    def _promote(self, record: HolderRecord) -> None:
        """Have the counter stand at the bound of the record: what has a lower one is destroyed by this."""
        with self._counting() as seat:
            _advance(seat.counter, _decode(record.sealed).bound)

    def _destroy(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> tuple[HolderRecord, ...]:
        """Have the counter pass the record's bound; ``others`` that it would close are sealed anew before."""
        with self._counting() as seat:
            dying = _decode(record.sealed)
            if dying.parent != seat.parent():
                raise RootError(_ELSEWHERE, next="bring back the TPM that sealed it, or give this holder up")
            stands = seat.counter.begin()
            if stands <= dying.bound:
                others = self._raise(seat, stands, record, others)
                _advance(seat.counter, dying.bound + 1)
        return others

    def _raise(
        self, seat: _Seat, stands: int, record: HolderRecord, others: tuple[HolderRecord, ...]
    ) -> tuple[HolderRecord, ...]:
        """Seal what is to live above the bound that the counter will pass, and write that down first."""
        bounds = _bounds((record, *others), stands)
        above, dying = max(bounds) + 1, bounds[0]
        raised = tuple(
            self._seal_again(seat, each, above) if stands <= bound <= dying else each
            for each, bound in zip(others, bounds[1:], strict=True)
        )
        if raised != others:
            self.file.write([*raised, record])
        return raised

    def _seal_again(self, seat: _Seat, record: HolderRecord, bound: int) -> HolderRecord:
        """Seal a record's root under another bound, and open it once before the old one is given up."""
        root = seat.unseal(_decode(record.sealed))
        anew = seat.seal(root, bound)
        if not compare(seat.unseal(anew), root):
            raise RootError("the TPM gives back another root than it was given; nothing was destroyed")
        return replace(record, sealed=anew.to_json())

    def _forget_dead(self) -> None:
        """Remove records that an interrupted ``drop`` left behind the counter; never all of them."""
        records = self.file.read()
        with self._counting() as seat:
            stands = seat.counter.read()
        living = [each for each in records if _decode(each.sealed).bound >= stands]
        if living and len(living) < len(records):
            self.file.write(living)

    # Sittings.

    @contextlib.contextmanager
    def _seated(self, held: Sequence[int] = ()) -> Iterator[_Seat]:
        with sitting(self.tcti, self.place.secrets, held) as bench:
            yield _Seat(bench, Counter(bench, self.index, self.place.vault_id))

    @contextlib.contextmanager
    def _counting(self) -> Iterator[_Seat]:
        """Sit with the holder file locked, by the tools too.

        A tool that outlives its killed process holds the lock until it ends. So whoever goes on reads the
        counter when nothing moves it any more, and does not take it a step too far.
        """
        with translated(str(self.file.path)):
            descriptor = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            take(descriptor)
            with self._seated((descriptor,)) as seat:
                yield seat
        finally:
            os.close(descriptor)


def _advance(counter: Counter, target: int) -> None:
    """Increment to ``target`` and not beyond, looking after each step; RootError where it is beyond."""
    while (stands := counter.read()) < target:
        counter.increment()
    if stands > target:
        raise RootError(
            f"the TPM's counter went to {stands} instead of {target}: something else increments it"
        )


def _bounds(records: Sequence[HolderRecord], stands: int) -> list[int]:
    """Bound of each record; raises RootError for one that was never given."""
    bounds = [_decode(each.sealed).bound for each in records]
    if any(bound - stands > _FARTHEST for bound in bounds):
        raise RootError(
            f"the holder file was altered: it names a bound far above the counter, which is {stands}"
        )
    return bounds


def _decode(sealed: JsonObject) -> SealedRoot:
    try:
        return decode_sealed(sealed)
    except FormatError as error:
        raise KeyGone(f"the record is damaged: {error}") from error
