"""The ``passphrase:`` layer: a KEK by Argon2id from what a person knows (SPEC §4.6, RFC 9106)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from facekeep.crypto import primitives as p
from facekeep.crypto.passphrase import argon2id
from facekeep.errors import FormatError, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.formats.ids import from_hex
from facekeep.keys.layers import About, Layer, only
from facekeep.keys.provider import Place
from facekeep.keys.sealed_holder import KeyGone

SALT_LEN: Final = 16  # bytes (RFC 9106 §3.1)
LANES: Final = 4  # RFC 9106 §4
MEMORY_MIN_KIB: Final = 64 * 1024  # the second recommended option of RFC 9106 §4
MEMORY_MAX_KIB: Final = 1024 * 1024  # a holder file must not have a process take all there is
ITERATIONS_MIN: Final = 3  # likewise of RFC 9106 §4
ITERATIONS_MAX: Final = 16
MEMORY_MIB: Final = 256  # without ?memory=
SHORTEST: Final = 15  # characters: NIST SP 800-63B-4 §3.1.1, where nothing else is asked for

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
_KEYS: Final = {"iterations", "lanes", "memory_kib", "salt"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess costs."""

    iterations: int
    memory_kib: int

    def to_json(self, salt: bytes) -> JsonObject:
        """Return a record's parameters."""
        return {
            "iterations": self.iterations,
            "lanes": LANES,
            "memory_kib": self.memory_kib,
            "salt": salt.hex(),
        }


class PassphraseLayer(Layer):
    """Secret ``passphrase``, or the one that ``?secret=`` names; ``?memory=`` in MiB."""

    word: ClassVar[str] = "passphrase"

    def __init__(self, place: Place, secret: str = "passphrase", memory_mib: int = MEMORY_MIB) -> None:  # noqa: S107 - a name
        """Keep the secret's name and the cost of new records."""
        super().__init__(place)
        self._secret = secret
        self._cost = Cost(ITERATIONS_MIN, memory_mib * 1024)
        self._purpose = f"the root of vault {place.vault_id.hex()[:8]}"

    @classmethod
    def from_uri(cls, head: str, options: Mapping[str, str], place: Place) -> Self:
        """``passphrase:?secret=NAME&memory=MIB``, both optional."""
        only(options, frozenset({"secret", "memory"}), cls.word)
        secret, memory = options.get("secret", "passphrase"), options.get("memory", str(MEMORY_MIB))
        if head:
            raise UsageError(
                "nothing stands after passphrase: but options",
                next="a passphrase is asked for, or read from the file that FACEKEEP_PASSPHRASE_FILE names",
            )
        if not _NAME.match(secret):
            raise UsageError("a secret's name is made of lower-case letters, digits and hyphens")
        low, high = MEMORY_MIN_KIB // 1024, MEMORY_MAX_KIB // 1024
        if not re.fullmatch(r"[1-9][0-9]{0,4}", memory) or not low <= int(memory) <= high:
            raise UsageError(f"the passphrase layer takes {low} to {high} MiB of memory")
        return cls(place, secret, int(memory))

    def begin(self) -> None:
        """Have a passphrase chosen, unless it is known; refuse one that is too short to stand alone."""
        if len(self._passphrase(new=True).decode("utf-8", "replace")) < SHORTEST:
            self.place.secrets.refuse(self._secret)
            raise UsageError(
                f"the {self._secret} has fewer than {SHORTEST} characters", next="take a longer one"
            )

    def new_key(self, about: About, proven: JsonObject | None) -> tuple[JsonObject, bytes]:
        """Take salt and cost of a record that opened, if the cost is still the one wanted: no new derivation.

        Each root is sealed under a key of its own all the same: its share is part of it.
        """
        params = proven
        if params is None or self._parse(params)[0] != self._cost:
            params = self._cost.to_json(p.random_bytes(SALT_LEN))
        return params, self.key(about, params)

    def fetch(self, about: About, params: JsonObject) -> bytes:
        """Derive; refuses parameters outside the bounds before it asks for anything."""
        del about
        cost, salt = self._parse(params)
        return argon2id(
            self._passphrase(), salt, iterations=cost.iterations, lanes=LANES, memory_kib=cost.memory_kib
        )

    def refused(self, params: JsonObject, *, proven: bool) -> RootError:
        """Forget a wrong passphrase and never try it again."""
        error = super().refused(params, proven=proven)
        if proven:
            return error
        self.place.secrets.refuse(self._secret)
        return RootError(
            f"the {self._secret} is wrong, or the holder file was altered",
            next=f"give the {self._secret} that {self._purpose} was last sealed with",
        )

    def _passphrase(self, *, new: bool = False) -> bytes:
        return self.place.secrets.get(self._secret, self._purpose, new=new)

    @staticmethod
    def _parse(params: JsonObject) -> tuple[Cost, bytes]:
        """(cost, salt); raises KeyGone for what a reader must refuse."""
        if params.keys() != _KEYS:
            raise KeyGone("its passphrase parameters are not those of SPEC §4.6")
        iterations, memory = params["iterations"], params["memory_kib"]
        if (
            type(iterations) is not int
            or type(memory) is not int
            or type(params["lanes"]) is not int
            or params["lanes"] != LANES
            or not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX
            or not MEMORY_MIN_KIB <= memory <= MEMORY_MAX_KIB
        ):
            raise KeyGone(
                "its passphrase parameters are weaker or larger than facekeep takes: it was altered"
            )
        try:
            return Cost(iterations, memory), from_hex(params["salt"], SALT_LEN, "a salt")
        except FormatError as error:
            raise KeyGone(f"its passphrase parameters are damaged: {error}") from None
