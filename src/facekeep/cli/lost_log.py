"""``facekeep restore --lost-log``: a new log in the place of one that is lost with every copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facekeep.cli import output
from facekeep.cli.keys_recover import SEEN
from facekeep.cli.opened import find_token_of, secrets, settings_of
from facekeep.cli.options import State
from facekeep.cli.progress import Progress
from facekeep.errors import StoreError, UsageError
from facekeep.formats.settings import Settings
from facekeep.operations import recovering
from facekeep.operations.restart import Restarted
from facekeep.vault import Vault

_MAX: Final = 1_000_000  # bytes of a checkpoint (SPEC §10.2)


@dataclass(frozen=True, slots=True)
class Lost:
    """What stands for what is lost: a backup for vault.db, the private key for every root holder.

    ``checkpoint`` is the newest that was published, ``root`` the URI of the new root holder.
    """

    backup: str | None
    checkpoint: str | None
    private: Path | None
    root: str | None


def restart_log(state: State, lost: Lost, *, yes: bool) -> int:
    """Restart the log, after the settings that nothing authenticates any more were confirmed."""
    settings = settings_of(state)
    if not yes:
        lines = [f"{name}: {value}" for name, value in _settings_of(settings)]
        for each in lines if not state.json else ():
            output.hint(f"  {each}")
        shown = "the lines above" if not state.json else f"this ({'; '.join(lines)})"
        raise UsageError(
            "the lost log vouched for vault.toml; nothing was done",
            next=f"compare {shown} with what should be there; if all is right, add --yes",
        )
    note = None if lost.checkpoint is None else _read(Path(lost.checkpoint))
    key = None if lost.private is None else recovering.load_private(lost.private)
    with Progress("adopting") as progress:
        done = Vault.restart_log(
            state.path(),
            token=find_token_of(state),
            checkpoint=note,
            backup=lost.backup,
            recovery=key,
            root=lost.root,
            secrets=secrets(state),
            progress=progress,
        )
    if state.json:
        told = {"resumed": True} if done is None else {**done.to_json(), "resumed": False}
        output.json_line(told if key is None else {**told, "root": settings_of(state).root_uri})
        return 0
    _tell(done)
    if key is not None:
        output.data("root key", settings_of(state).root_uri)
        output.hint(SEEN)
    return 0


def _tell(done: Restarted | None) -> None:
    if done is None:
        output.say("the log was restarted before; what was left to do is done")
        return
    output.data("adopted grants", done.grants)
    output.data("adopted principals", done.principals)
    output.data("not adopted, and destroyed", done.left)
    output.data("erased, and stay so", done.dead)
    output.warn(
        f"the log was restarted: what it recorded, {done.size} entries at least, is lost",
        "tell your auditors, and type erasures again that were pending; then: facekeep audit checkpoint",
    )


def _settings_of(settings: Settings) -> Iterator[tuple[str, object]]:
    """Yield all that stands in vault.toml: whatever is not shown an attacker could have slipped in."""
    yield "region", settings.region
    yield from (("further region", each) for each in settings.regions)
    yield from (("root holder", uri) for uri in settings.holders)
    yield from (("key id of the recovery key", recovering.key_of(uri)) for uri in settings.recovery)
    yield from (("leaving root holder", uri) for uri in settings.leaving)
    yield from (("copies", path) for path in settings.copies)
    yield from ((f"schedule {key}", value) for key, value in settings.schedule.document().items())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX)
    except OSError as error:
        raise StoreError(f"the checkpoint {path.name}: {error.strerror}") from error
