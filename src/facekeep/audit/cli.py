"""The facekeep-audit command: every claim checked with a public key, offline (SPEC §11, §12)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import click

from facekeep.audit.bundle import verify
from facekeep.audit.certificate import render
from facekeep.audit.consistency import verify_consistency
from facekeep.audit.console import Console, judged, say, tell, telling
from facekeep.audit.inputs import read_file, read_keys, write_new
from facekeep.audit.logs import verify_log
from facekeep.audit.opening import open_trusted
from facekeep.audit.proven import Proven
from facekeep.audit.report import Report
from facekeep.audit.watch import watch
from facekeep.audit.witness import make_key, read_key
from facekeep.auditlog.exported import ExportDirectory, ExportedTree
from facekeep.cli import output
from facekeep.cli.progress import Progress
from facekeep.clock import SystemClock
from facekeep.formats import bundle, note, opening
from facekeep.formats.note import KeyType, VerifierKey

P = ParamSpec("P")
R = TypeVar("R")
_PROOF_MAX: Final = note.MAX_BYTES + 100_000  # bytes of a consistency proof
_KINDS: Final = {
    "ed25519": KeyType.COSIGNATURE_ED25519,
    "ml-dsa-44": KeyType.COSIGNATURE_ML_DSA_44,
}

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def key_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --key, which may be repeated."""
    return click.option(
        "--key", "vkeys", metavar="VKEY", required=True, multiple=True,
        help="Verifier key of the log, or a file of them; from the operator, by a way you trust. Repeat it.",
    )(function)  # fmt: skip


def _keys(vkeys: tuple[str, ...]) -> list[VerifierKey]:
    return list(dict.fromkeys(key for text in vkeys for key in read_keys(text)))


@click.group(
    "facekeep-audit",
    cls=Console,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    epilog="Exit status: 0 verified, 2 command line, 33 a step does not hold, 9 and up another error.",
)
@click.version_option(package_name="facekeep", message="%(prog)s %(version)s")
def root() -> None:
    """Check what a facekeep vault claims, with its public key and nothing else."""


@root.command("verify-proof", short_help="Verify a shredding proof.")
@click.argument("file")
@key_option
@click.option("--opening", "opened", metavar="FILE", help="The person's receipt: shows whose tag it is.")
@click.option("--log", "export", metavar="DIR", help="An export: shows that there was no other grant.")
@click.option("--certificate", metavar="HTML", help="Write a certificate for people to a new file.")
@as_json_option
def verify_proof(
    file: str,
    vkeys: tuple[str, ...],
    opened: str | None,
    export: str | None,
    certificate: str | None,
    as_json: bool,
) -> None:
    """Verify a shredding proof (SPEC §12.3)."""
    keys = _keys(vkeys)
    data = read_file(Path(file), bundle.MAX_BYTES)
    receipt = None
    if opened is not None:
        receipt = opening.Opening.parse(read_file(Path(opened), opening.MAX_BYTES))
    log = None if export is None else _export(Path(export), keys)
    with Progress("searching the log") as progress:
        on_step = None if as_json else telling(progress)
        proven = verify(data, keys, opening=receipt, log=log, on_step=on_step, progress=progress)
    if certificate is not None:
        write_new(Path(certificate), render(proven).encode())
    if as_json:
        output.json_line(proven.to_json())
    else:
        _tell_proven(proven)


def _export(directory: Path, keys: list[VerifierKey]) -> ExportedTree:
    files = ExportDirectory(directory)
    return ExportedTree(files, open_trusted(files.checkpoint(), keys, files))


def _tell_proven(proven: Proven) -> None:
    output.data("vault", proven.vault.hex())
    output.data("subject tag", proven.tag.hex())
    if proven.subject is not None:
        output.data("subject", proven.subject)
    output.data("grants", len(proven.grants))
    output.data("epoch", f"{proven.before.epoch} to {proven.after.epoch}")
    for word, text in proven.not_proved().items():
        output.data("not proved", word, text)
    say("every step that was judged holds; what is not proved stands above")


@root.command("verify-log", short_help="Verify a whole exported log and replay it.")
@click.argument("directory")
@key_option
@as_json_option
def log_command(directory: str, vkeys: tuple[str, ...], as_json: bool) -> None:
    """Verify a whole exported log: its tree, its form, and every decision ever taken (SPEC §11.1)."""

    def replayed() -> Report:
        with Progress("replaying the log") as progress:
            return verify_log(Path(directory), _keys(vkeys), progress=progress)

    report = judged(replayed, as_json=as_json)
    if as_json:
        output.json_line(report.to_json())
    else:
        say(f"all {report.size} entries verified")


@root.command("verify-consistency", short_help="Verify that a log continues an older checkpoint.")
@click.argument("old")
@click.argument("new", metavar="DIR_OR_PROOF")
@key_option
@as_json_option
def consistency_command(old: str, new: str, vkeys: tuple[str, ...], as_json: bool) -> None:
    """Verify that an export, or a consistency proof, continues the checkpoint in OLD (SPEC §11.2)."""
    older = read_file(Path(old), note.MAX_BYTES)
    path = Path(new)
    newer = path if path.is_dir() else read_file(path, _PROOF_MAX)
    report = judged(lambda: verify_consistency(older, newer, _keys(vkeys)), as_json=as_json)
    if as_json:
        output.json_line(report.to_json())
    else:
        say("the log continues what was seen before")


@root.command("watch", short_help="Keep the last checkpoint seen; catch a rewritten log.")
@click.argument("directory")
@key_option
@click.option("--state", metavar="FILE", required=True, help="Where the last checkpoint is kept.")
@click.option(
    "--witness-key", metavar="FILE", help="Cosign what is consistent, and print the signature line."
)
@click.option(
    "--restarted", is_flag=True, help="Go on with a log that was begun anew; what was seen is kept beside."
)
@as_json_option
def watch_command(
    directory: str,
    vkeys: tuple[str, ...],
    state: str,
    witness_key: str | None,
    restarted: bool,
    as_json: bool,
) -> None:
    """Compare an export with the checkpoint seen last (SPEC §12.5); run it daily.

    With --witness-key the only line on standard output is a C2SP cosignature.
    """
    witness = None if witness_key is None else read_key(Path(witness_key))
    now = SystemClock().now_ms()
    on_step = None if as_json or witness is not None else tell
    keys, kept = _keys(vkeys), Path(state)
    seen = watch(
        Path(directory), keys, kept, time_ms=now, witness=witness, restarted=restarted, on_step=on_step
    )
    line = None if seen.cosignature is None else seen.cosignature.encode().removesuffix("\n")
    if as_json:
        told = {"before": seen.before, "cosignature": line, **seen.report.to_json()}
        output.json_line(told)
        return
    if line is not None:
        output.line(line)
    before = "seen for the first time" if seen.before is None else f"{seen.before} before"
    say(f"the log has {seen.checkpoint.size} entries, {before}")


@root.command("fingerprint", short_help="Print what of verifier keys can be read over the telephone.")
@click.argument("vkeys", metavar="VKEY", nargs=-1, required=True)
@as_json_option
def fingerprint_command(vkeys: tuple[str, ...], as_json: bool) -> None:
    """Print the SHA-256 of each verifier key, in a file or not, to be compared with the operator's."""
    keys = _keys(vkeys)
    if as_json:
        output.json_line({"fingerprints": [key.fingerprint() for key in keys]})
        return
    for key in keys:
        output.data(key.type.label, key.fingerprint())


@root.command("witness-key", short_help="Make a key for a witness.")
@click.argument("name")
@click.option("-o", "--output", "target", metavar="FILE", required=True, help="A new file (mode 0600).")
@click.option("--type", "kind", type=click.Choice(list(_KINDS)), default="ed25519", show_default=True)
@as_json_option
def witness_command(name: str, target: str, kind: str, as_json: bool) -> None:
    """Make a key for 'watch --witness-key'; prints its verifier key."""
    key = make_key(name, Path(target), _KINDS[kind])
    if as_json:
        output.json_line({"key": key.encode()})
    else:
        output.line(key.encode())


@root.command("probe", short_help="Try an old backup against the vault, with its operator.")
@click.option("--vault", metavar="DIR", required=True, help="The vault, with its root key in reach.")
@click.option("--token-file", metavar="FILE", help="The operator's token.")
@click.option("--backup", metavar="FILE", required=True, help="A backup from before the erasure.")
@click.option("--proof", "proofs", metavar="FILE", required=True, multiple=True, help="Repeat it.")
@click.option("--key", "vkeys", metavar="VKEY", multiple=True, help="As elsewhere; else the vault's own.")
@click.option("--keys", "old", metavar="FILE", multiple=True, help="An old keys.db to try as well.")
@as_json_option
def probe_command(
    vault: str,
    token_file: str | None,
    backup: str,
    proofs: tuple[str, ...],
    vkeys: tuple[str, ...],
    old: tuple[str, ...],
    as_json: bool,
) -> None:
    """Try to open every template of an old backup with all keys there are (SPEC §12.7).

    This command alone needs the vault and its operator. No template is opened, living or erased: a key
    that opens a grant's record would open its templates.
    """
    data = [read_file(Path(each), bundle.MAX_BYTES) for each in proofs]
    keys = _keys(vkeys) if vkeys else None
    options: Any = importlib.import_module("facekeep.cli.options")
    opened: Any = importlib.import_module("facekeep.cli.opened")
    state = options.State(vault=vault, token_file=token_file, json=as_json)
    with cast("Any", opened.open_vault(state)) as held, Progress("trying keys") as progress:
        on_step = None if as_json else telling(progress)
        found = held.probe(backup, data, keys, old_keys=old, on_step=on_step, progress=progress)
    if as_json:
        output.json_line(found.to_json())
        return
    for name, opens in found.trees:
        output.data("keys", name, "tried" if opens else "no root of the vault opens it")
    output.data("erased", f"{found.erased.opened} of {found.erased.rows} open")
    output.data("living", f"{found.living.opened} of {found.living.rows} open")
    output.data("destroyed, without a proof", f"{found.other.opened} of {found.other.rows} open")


def main() -> None:
    """Run the ``facekeep-audit`` command."""
    root.main()
