"""Every limit in one place, with its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what facekeep accepts. Formats (docs/spec) fix some of them for good."""

    subject_id_bytes: int = 512  # UTF-8 bytes
    text_bytes: int = 1024  # UTF-8 bytes of purpose, controller and the like
    notice_bytes: int = 16 * 1024 * 1024  # size of a notice file
    regions: int = 16  # region codes in one grant
    record_bytes: int = 65_536  # one sealed consent record
    rows_of_subject: int = 1_024  # rows of one tag that are looked at in a branch, newest first
    rows_at_gate: int = 32  # of these, rows that the gate reads: living slots first
    rows_above: int = 64  # rows of a branch above all slots that the log gave out, that are looked at
    templates: int = 64  # rows of one subject's template array, the mean included
    dimension: int = 4096  # components of one template
    entry_bytes: int = 65_535  # one log entry (C2SP tlog-tiles bundles have a uint16 length)
    grants_per_entry: int = 16  # about 7 KB: a shredding proof carries whole entries
    ranges_per_entry: int = 1_000  # slot ranges in one destroy entry
    tags_per_entry: int = 400  # subject tags in one destroy entry
    candidates: int = 1_000  # identify answers at the most
    image_file_bytes: int = 64 * 1024 * 1024  # bytes of one photograph's file
    image_pixels: int = 25_000_000  # pixels before decoding
    image_scans: int = 32  # scans of one JPEG; encoders make ten
    image_parts: int = 100_000  # segments, chunks or strips of a photograph's file
    image_profile_bytes: int = 4 * 1024 * 1024  # an ICC profile
    image_side: int = 1_000  # pixels of the longer side handed to a detector
    face_side: int = 40  # pixels of the smallest face accepted after shrinking
    clock_slack_ms: int = 5_000  # how far the clock may stand behind the log
    clock_jump_ms: int = 60_000  # by how much it may be set while a vault is open
    untold_s: float = 60.0  # how long nobody may be able to tell whether others could open a vault
    busy_timeout_ms: int = 15_000  # wait for SQLite's own locks
    writer_timeout_s: float = 30.0  # wait for the writer lock
    expire_percent: int = 1  # of a scope's living grants, destroyed in a day without a person
    consent_days: int = 3_660  # longest consent; there is no endless one


LIMITS = Limits()
