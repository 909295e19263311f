"""A passphrase layer over a root file, as the tests of many holders use it."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote

from facekeep.keys.holders import provider_from_uri
from facekeep.keys.layered import LayeredHolder
from facekeep.keys.provider import Place
from facekeep.keys.secrets import Secrets

PASSPHRASE: Final = b"four words that nobody says"
MEMORY_MIB: Final = 64  # the least that is accepted: 0.2 s for each new salt
SECRETS: Final = Secrets(lambda _name, _purpose: PASSPHRASE)
"""One source of secrets for a whole test run: what was derived once in a process is not derived again."""


def uri(directory: Path, name: str = "staff") -> str:
    """URI of a passphrase layer over ``directory/name.root``, its holder file ``directory/name.holder``."""
    file = quote(str(directory / f"{name}.holder"))
    return f"passphrase:?memory={MEMORY_MIB}&file={file}|file:{directory / f'{name}.root'}"


def provider(
    directory: Path, vault_id: bytes, secrets: Secrets = SECRETS, name: str = "staff"
) -> LayeredHolder:
    """The holder of that URI, not provisioned."""
    found = provider_from_uri(uri(directory, name), Place(vault_id, directory, secrets))
    assert isinstance(found, LayeredHolder)
    return found
