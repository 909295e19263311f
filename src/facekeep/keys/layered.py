"""A layer around a holder: what opens a root needs the layer's KEK and the holder's share (SPEC §4.6).

For each root the inner holder keeps a *share* of 32 random bytes as if it were a root. The layered record is
useless without that share: when the inner holder destroys it the root is destroyed, whatever copies of the
record, of a passphrase or of a server's key there are.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from facekeep.crypto import primitives as p
from facekeep.errors import FacekeepError, FormatError, IntegrityError, RootError, UsageError
from facekeep.formats.canonical import JsonObject, dumps
from facekeep.formats.holderfile import HolderRecord
from facekeep.formats.ids import from_hex
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.layers import About, Layer
from facekeep.keys.provider import Action, Candidate, Place, ProviderClass, Receipt, RootProvider
from facekeep.keys.sealed_holder import KeyGone, SealedHolder
from facekeep.store.holderfile import default_path

_DOMAIN: Final = p.domain("root-layer")
_KEYS: Final = {"blob", "key", "layer", "share"}
_BLOB_LEN: Final = p.KEY_LEN + p.BLOB_OVERHEAD


class LayeredHolder(SealedHolder):
    """``layer`` around ``inner``. Class, limits and erasure are those of the inner holder."""

    def __init__(self, layer: Layer, inner: RootProvider, place: Place, file: Path | None) -> None:
        """Take the parts; ``file`` is the holder file, by default in the user's data directory."""
        if inner.klass != "erasing":
            raise UsageError(
                f"a layer cannot stand before a {inner.scheme}: holder",
                next="put layers before the holder that destroys roots",
            )
        self.layer, self.inner = layer, inner
        self._proven: JsonObject | None = None  # parameters of a record that opened
        self._first = self._begun = False
        super().__init__(place, file or default_path(place.vault_id, self.scheme))

    @classmethod
    def from_uri(cls, rest: str, place: Place) -> NoReturn:
        """Refuse: a layer says nothing without its holder; see ``holders.provider_from_uri``."""
        del rest, place
        raise UsageError("a layer needs a holder behind it", next="write LAYER:|HOLDER:...")

    @property
    def scheme(self) -> str:
        """``passphrase-file`` and the like."""
        return f"{self.layer.word}-{self.inner.scheme}"

    @property
    def klass(self) -> ProviderClass:
        """Class of the inner holder: it destroys."""
        return self.inner.klass

    @property
    def limits(self) -> tuple[str, ...]:
        """Limits of the inner holder."""
        return self.inner.limits

    def receipt(self, action: Action) -> Receipt:
        """Receipt under this scheme, with all the limits of the inner holder's own."""
        return replace(super().receipt(action), limits=self.inner.receipt(action).limits)

    @property
    def layers(self) -> tuple[str, ...]:
        """Words of all layers, the outermost first."""
        return (self.layer.word, *self.inner.layers)

    @property
    def inmost(self) -> RootProvider:
        """The inner holder, behind its own layers."""
        return self.inner.inmost

    def refusal(self) -> RootError | None:
        """Return that of the inner holder."""
        return self.inner.refusal()

    @property
    def places(self) -> tuple[str, ...]:
        """Those of the inner holder too: what it keeps would go with it."""
        return (*super().places, *self.inner.places)

    @property
    def damage(self) -> tuple[str, ...]:
        """Records that did not open, and what the inner holder found."""
        return (*super().damage, *self.inner.damage)

    # First and last.

    def provision(self, root: bytes) -> None:
        """Provision the inner holder with the first share, and seal the first root."""
        self.layer.begin()
        self._first = True
        try:
            super().provision(root)
        except BaseException:
            if self._begun:
                with contextlib.suppress(FacekeepError):
                    self.inner.unprovision()
            raise
        finally:
            self._first = self._begun = False

    def unprovision(self) -> None:
        """Destroy every share, then remove what both keep.

        Without a record, provisioning was cut off: what the inner holder has may be another's, and stays.
        """
        if self.file.read():
            self.abandon()
            self.inner.unprovision()
        else:
            with contextlib.suppress(RootError):  # nothing may be there
                if not self.inner.candidates():
                    self.inner.unprovision()
        self.file.remove()

    def abandon(self) -> Receipt:
        """Have the inner holder destroy every share; then forget the records and their KEKs."""
        self.inner.abandon()
        for record in self.file.read():
            self._forget(record, ())
        self.file.write(())
        return self.receipt("destroyed")

    def drop(self, fingerprint: bytes) -> Receipt:
        """Destroy the share of this root; where its record was taken away, every share without a record."""
        records = self.file.read()
        if all(each.fingerprint != fingerprint for each in records):
            self._sweep(records)
        return super().drop(fingerprint)

    # One record.

    def _seal(self, root: bytes, fingerprint: bytes) -> JsonObject:
        share = p.random_bytes(p.KEY_LEN)
        mark = root_fingerprint(self.place.vault_id, share)
        about = About(self.place.vault_id, fingerprint, mark)
        params, kek = self.layer.new_key(about, self._proven)
        try:
            self._hold(Candidate(mark, "staged", share))
        except BaseException:
            if params != self._proven:
                self.layer.forget(params)
            raise
        blob = p.seal(self._join(kek, share), root, self._aad(about, params))
        return {"blob": blob.hex(), "key": params, "layer": self.layer.word, "share": mark.hex()}

    def _hold(self, share: Candidate) -> None:
        """Have the inner holder keep a share, and read it back."""
        if self._first:
            self.inner.provision(share.root)
            self._begun = True
        else:
            self.inner.stage(share.root)
        self.inner.confirm(share)

    def _unseal(self, sealed: JsonObject, fingerprint: bytes) -> bytes:
        mark, params, blob = self._parts(sealed)
        share = self._share(mark)  # first: without it nobody needs to be asked for anything
        about = About(self.place.vault_id, fingerprint, mark)
        kek = self.layer.key(about, params)
        try:
            root = p.open_sealed(self._join(kek, share), blob, self._aad(about, params))
        except IntegrityError:
            raise self.layer.refused(params, proven=params == self._proven) from None
        self._proven = params
        return root

    def _promote(self, record: HolderRecord) -> None:
        self.inner.promote(self._parts(record.sealed)[0])

    def _destroy(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> tuple[HolderRecord, ...]:
        with contextlib.suppress(KeyGone):  # a record that names no share: the sweep finds what it had
            self.inner.drop(self._parts(record.sealed)[0])
        self._sweep(others)
        self._forget(record, others)
        return others

    def _forget(self, record: HolderRecord, others: tuple[HolderRecord, ...]) -> None:
        """Let the layer forget a KEK; a failure leaves nothing but litter, since the share is gone."""
        with contextlib.suppress(RootError):
            params = self._parts(record.sealed)[1]
            if all(each.sealed.get("key") != params for each in others):
                self.layer.forget(params)

    def _sweep(self, records: tuple[HolderRecord, ...]) -> None:
        """Drop shares that no record names. The inner holder's current one is never such a stray."""
        named = {each.sealed.get("share") for each in records}
        for share in self.inner.candidates():
            if share.fingerprint.hex() not in named:
                if share.state == "current":
                    raise RootError(
                        f"{self.file.path} does not name the share that the {self.inner.scheme}: holder has:"
                        " it was altered, or is an old copy",
                        next="put the holder file back; a mirror opens the vault meanwhile",
                    )
                self.inner.drop(share.fingerprint)

    # Bytes.

    def _share(self, mark: bytes) -> bytes:
        for each in self.inner.candidates():
            if each.fingerprint == mark:
                return each.root
        raise KeyGone(f"the {self.inner.scheme}: holder behind its layer has not its share")

    def _parts(self, sealed: JsonObject) -> tuple[bytes, JsonObject, bytes]:
        """(fingerprint of the share, the layer's parameters, sealed root); raises KeyGone."""
        if (
            sealed.keys() != _KEYS
            or sealed["layer"] != self.layer.word
            or not isinstance(sealed["key"], dict)
        ):
            raise KeyGone(f"its record is not one of the {self.layer.word}: layer")
        try:
            mark = from_hex(sealed["share"], p.KEY_LEN, "a share's fingerprint")
            return mark, sealed["key"], from_hex(sealed["blob"], _BLOB_LEN, "a blob")
        except FormatError as error:
            raise KeyGone(f"its record is damaged: {error}") from None

    def _join(self, kek: bytes, share: bytes) -> bytes:
        return p.mac(kek, _DOMAIN, self.place.vault_id, share)

    def _aad(self, about: About, params: JsonObject) -> bytes:
        word, packed = self.layer.word.encode("ascii"), dumps(params)
        fixed = _DOMAIN + p.SUITE.to_bytes(2, "big") + about.vault_id + about.root + about.share
        return fixed + b"".join(len(each).to_bytes(2, "big") + each for each in (word, packed))
