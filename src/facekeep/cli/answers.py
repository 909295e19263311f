"""Shapes that several commands print."""

from __future__ import annotations

from facekeep.cli import output
from facekeep.cli.times import written
from facekeep.formats.canonical import JsonObject
from facekeep.matching.threshold import Threshold
from facekeep.vault import Erasure, Receipt


def threshold_json(threshold: Threshold) -> dict[str, object]:
    """Return the threshold and its evidence."""
    return dict(threshold.to_json())


def threshold_words(threshold: Threshold) -> str:
    """Return the threshold in a few words."""
    several = "" if threshold.mean_value is None else f", {threshold.mean_value:g} for a mean of photographs"
    return f"threshold {threshold.value:g}{several} ({threshold.model_id})"


def tell_receipt(receipt: Receipt, done: str, *, as_json: bool) -> None:
    """Print what a subject was given."""
    if as_json:
        output.json_line(receipt.to_json())
        return
    for grant in receipt.grants:
        output.data(grant.scope, written(grant.expires_at_ms), f"slot {grant.slot}")
    for scope in receipt.skipped:
        output.say(f"already enrolled for {scope}; left as it was")
    if receipt.grants:
        output.data("tag", receipt.tag)
        output.data("salt", receipt.salt)
        output.say(f"{done}; give the person this receipt: tag and salt show later what was erased")


def tell_erasure(erasure: Erasure, done: str, *, as_json: bool) -> None:
    """Print what was destroyed."""
    if as_json:
        output.json_line(erasure.to_json())
        return
    output.line(
        f"{done}: {output.counted(erasure.subjects, 'person', 'people')}, "
        f"{output.counted(erasure.slots, 'grant')}; epoch {erasure.epoch}, log entry {erasure.erasure}"
    )
    if erasure.begun_before:
        output.say("an erasure of theirs was pending, and was finished now")


def tell_extent(extent: JsonObject) -> None:
    """Say what a rotation or a move would write, and about how long it takes: a dry run."""
    found = {key: value for key, value in extent.items() if key not in {"dry_run", "what"}}
    what = "move of the root" if extent["what"] == "move" else f"rotation of {extent['what']}"
    output.say(f"a {what} would write this, in about so many seconds; nothing was done")
    for key, value in found.items():
        output.data(key, value)
