"""Running the crash matrix: every site, every point, every mode; and what came of it, as counts."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import matrix_work as work
from matrix_points import Mode, Point
from matrix_sites import Ground, Move
from matrix_work import Site
from matrix_zygote import Zygote

FULL: Final = os.environ.get("FACEKEEP_MATRIX") == "full"
INTENT: Final = Point("log.db: commit", 1)  # from here on the shred is announced, and is never forgotten
#: points of a move whose holders are slow: what is on disk differs after each of them
MOVE_STEPS: Final = {
    "step move.provisioned", "step move.announced", "step move.renamed", "step stage", "step write",
    "step promote", "step move.forgotten",
}  # fmt: skip


@dataclass
class Result:
    """Counts of one site: cases by (point, mode), and what was seen in all of them."""

    points: list[Point]
    cases: Counter[tuple[str, Mode]] = field(default_factory=Counter)
    opened: int = 0
    refused: int = 0
    spared: int = 0
    roots: int = 0

    def count(self, point: Point, mode: Mode, found: work.Found) -> None:
        self.cases[point.name, mode] += 1
        self.opened += found.opened
        self.refused += found.refused
        self.spared += not found.refused
        self.roots += found.roots


def modes(point: Point, *, few: bool) -> Iterator[Mode]:
    """How a process is to end at a point. Killed after one is killed before the next, but for a commit."""
    if not point.single:
        yield Mode.BEFORE
    yield from (Mode.AFTER, Mode.KILLED)
    if not point.single and (FULL or not few):
        yield Mode.KILLED_BEFORE


def spares(points: list[Point], point: Point, mode: Mode) -> bool:
    """Whether the shred was not announced yet, so that nothing is to be done."""
    at, intent = points.index(point), points.index(INTENT)
    return at < intent or (at == intent and mode.early)


def run(site: Site, zygote: Zygote, *, few: bool) -> Result:
    """Every point and mode on one vault, one shred after the other."""
    site, before = zygote.call(work.make, site)
    points = zygote.call(work.shred, site, before)
    living = list(work.ALWAYS)
    found = zygote.call(work.look, site, before, 1, living, spared=False)
    result = Result(points)
    cases = [(point, mode) for point in points for mode in modes(point, few=few)]
    for number, (point, mode) in enumerate(cases, 2):
        before, spared = found.next, spares(points, point, mode)
        with said(point, mode):
            (zygote.kill if mode.kills else zygote.call)(work.shred, site, before, point, mode)
            found = zygote.call(work.look, site, before, number, living, spared=spared)
        living += [before.name] * spared
        result.count(point, mode, found)
    return result


def run_move(move: Move, ground: Ground, base: Path, zygote: Zygote) -> Result:
    """kill -9 at each point of a move, each time in a new vault."""

    def case(number: int) -> tuple[Site, work.Before, str]:
        at = base / str(number)
        at.mkdir(parents=True)
        site, target = ground.place(move.make, at)
        return *zygote.call(work.make_to_move, site), target

    site, before, target = case(0)
    result = Result(zygote.call(work.move, site, target))
    zygote.call(work.look_after_move, site, before, target)
    points = [each for each in result.points if not move.slow or each.name in MOVE_STEPS]
    for number, point in enumerate(points, 1):
        with said(point, Mode.KILLED):
            site, before, target = case(number)
            zygote.kill(work.move, site, target, point, Mode.KILLED)
            result.count(point, Mode.KILLED, zygote.call(work.look_after_move, site, before, target))
    return result


@contextlib.contextmanager
def said(point: Point, mode: Mode) -> Iterator[None]:
    """Have an error name the case."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{point.name} ({point.occurrence}), {mode}: {error}") from error
