"""Whom to enrol in bulk: one folder a person, or JSON lines (docs/integrator.md, bulk enrolment)."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from facekeep.cli.terms import Statement
from facekeep.errors import FacekeepError, StoreError, UsageError

LINE_BYTES: Final = 16 * 1024 * 1024
_NO_PHOTOGRAPHS: Final = frozenset({"thumbs.db", "desktop.ini"})
_TEXTS: Final = frozenset(
    {"expires", "notice", "language", "purpose", "controller", "not_before", "expressed_by", "expressed_at"}
)
_LISTS: Final = frozenset({"scopes", "regions"})
KEYS: Final = frozenset({"subject", "images", "embedding", "model"}) | _TEXTS | _LISTS


@dataclass(frozen=True, slots=True)
class Item:
    """One person of a source. ``error`` says why the item itself cannot be read; ``number`` counts from 1."""

    number: int
    statement: Statement
    subject: str = ""
    images: tuple[Path, ...] = ()
    embedding: Path | list[Any] | None = None
    model_text: str | None = None
    error: FacekeepError | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """People in order; ``total`` 0 when it is not known; ``unit`` is what an item is called."""

    items: Iterator[Item]
    total: int
    unit: str


def read_source(named: str, statement: Statement) -> Source:
    """Open a source: a folder, a file of JSON lines, or - for JSON lines on standard input."""
    if named == "-":
        return Source(_lines(sys.stdin.buffer, Path(), statement), 0, "line")
    path = Path(named)
    try:
        if path.is_dir():
            folders = _folders(path)
            return Source(_people(folders, statement), len(folders), "folder")
        with path.open("rb") as file:
            total = sum(1 for line in file if line.strip())
    except OSError as error:
        raise StoreError(f"{path.name}: {error.strerror}", next="check the path after --from") from error
    if not total:
        raise UsageError(
            f"{path.name} has nobody in it", next="write one JSON object a line, one line a person"
        )
    return Source(_opened(path, statement), total, "line")


def _folders(path: Path) -> list[Path]:
    found = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not found:
        raise UsageError(
            f"{path.name} has no folder in it", next="make one folder a person, with their photographs inside"
        )
    return found


def _people(folders: list[Path], statement: Statement) -> Iterator[Item]:
    for number, folder in enumerate(folders, 1):
        # macOS spells file names decomposed; a subject id is composed.
        subject = unicodedata.normalize("NFC", folder.name)
        try:
            images = tuple(sorted(each for each in folder.iterdir() if _may_be_photograph(each)))
        except OSError as error:
            failure = UsageError(f"the folder cannot be read: {error.strerror}")
            yield Item(number, statement, subject, error=failure)
            continue
        missing = None if images else UsageError("the folder has no photograph")
        yield Item(number, statement, subject, images, error=missing)


def _may_be_photograph(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower() not in _NO_PHOTOGRAPHS


def _opened(path: Path, statement: Statement) -> Iterator[Item]:
    with ExitStack() as cleanup:
        try:
            file = cleanup.enter_context(path.open("rb"))
        except OSError as error:
            raise StoreError(f"{path.name}: {error.strerror}") from error
        yield from _lines(file, path.parent, statement)


def _lines(file: BinaryIO, base: Path, statement: Statement) -> Iterator[Item]:
    number = 0
    while raw := file.readline(LINE_BYTES + 1):
        number += 1
        if not raw.strip():
            continue
        try:
            if len(raw) > LINE_BYTES:
                raise UsageError("the line is too long", next="split the manifest")
            yield _item(number, raw, base, statement)
        except FacekeepError as error:
            yield Item(number, statement, error=error)
            if len(raw) > LINE_BYTES:
                return


def _item(number: int, raw: bytes, base: Path, statement: Statement) -> Item:
    said = _parsed(raw)
    unknown = sorted(set(said) - KEYS)
    if unknown:
        raise UsageError(f"the line has the key {unknown[0][:40]!r}, which means nothing here")
    subject = said.get("subject")
    if not isinstance(subject, str):
        raise UsageError("the line names no subject")
    embedding = said.get("embedding")
    images = tuple(base / name for name in _texts(said, "images"))
    if isinstance(embedding, str):
        embedding = base / embedding
    elif embedding is not None and not isinstance(embedding, list):
        raise UsageError("embedding is neither numbers nor a file's name")
    model = _text(said, "model") if "model" in said else None
    return Item(number, _stated(said, base, statement), subject, images, embedding, model)


def _stated(said: Mapping[str, Any], base: Path, statement: Statement) -> Statement:
    changes: dict[str, Any] = {key: _text(said, key) for key in _TEXTS & set(said)}
    changes |= {key: _texts(said, key) for key in _LISTS & set(said)}
    if "notice" in changes:
        changes["notice"] = str(base / changes["notice"])
    return replace(statement, **changes)


def _parsed(raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise UsageError("the line names a key twice")
        return dict(pairs)

    try:
        said = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise UsageError("the line is not JSON") from None
    if not isinstance(said, dict):
        raise UsageError("the line is no JSON object")
    return said


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said[key]
    if not isinstance(value, str):
        raise UsageError(f"{key} is not a text")
    return value


def _texts(said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = said.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{key} is not a list of texts")
    return tuple(value)
