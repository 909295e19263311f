"""The crash matrix (docs/crash-matrix.md): each way to hold a root, each step of a shred, each failure there.

After recovery each living person matches, whoever was shredded does not, and no root that survives anywhere
opens the keys.db of before. FACEKEEP_MATRIX=full takes every combination; FACEKEEP_MATRIX_PAGE=FILE writes
the page; FACEKEEP_MATRIX_WORKERS says how many cases are under way at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

import matrix_page
from facekeep.keys.holders import LAYERS, PROVIDERS
from matrix_points import Mode
from matrix_run import FULL, Result, run, run_move
from matrix_sites import MOVES, SITES, Ground
from matrix_work import Site
from matrix_zygote import Zygote

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "crash-matrix.md"
#: no failure of theirs is like another's: a point is taken in each mode, killed once
SLOW: Final = ("tpm2", "keyring over aws-kms over file", "openbao", "pkcs11", "passphrase over file")
FULL_ONLY: Final = ("file and tpm2",)  # what it has is in "file and pkcs11" and "tpm2"
NAMES: Final = [name for name in SITES if FULL or name not in FULL_ONLY]


class Matrix:
    """The sites that are asked for, several under way at once: each is a row of short processes."""

    def __init__(self, base: Path, sites: list[str], moves: list[str]) -> None:
        self._ground = Ground(base)
        self._local = threading.local()
        self._zygotes: list[Zygote] = []
        self._pool = ThreadPoolExecutor(int(os.environ.get("FACEKEEP_MATRIX_WORKERS", "2")))
        self._futures: dict[str, Future[Result]] = {}
        for name in dict.fromkeys([*(each for each in SLOW if each in sites), *moves, *sites]):
            at = base / name.replace(" ", "-")
            at.mkdir()
            self._futures[name] = self._pool.submit(self._run, name, at)

    def _run(self, name: str, at: Path) -> Result:
        if name in MOVES:
            return run_move(MOVES[name], self._ground, at, self._zygote())
        site: Site = self._ground.place(SITES[name], at)
        return run(site, self._zygote(), few=name in SLOW or " and " in name)

    def _zygote(self) -> Zygote:
        if not hasattr(self._local, "zygote"):
            self._local.zygote = Zygote()
            self._zygotes.append(self._local.zygote)
        return self._local.zygote  # type: ignore[no-any-return]

    def result(self, name: str) -> Result:
        """What became of a site; raises what its run raised."""
        return self._futures[name].result()

    def results(self) -> dict[str, Result]:
        """Those that could be run on this machine."""
        return {name: each.result() for name, each in self._futures.items() if each.exception() is None}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for zygote in self._zygotes:
            zygote.close()
        self._ground.close()


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    asked = [item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")]
    made = Matrix(
        tmp_path_factory.mktemp("matrix"),
        [name for name in NAMES if name in asked],
        [name for name in MOVES if name in asked],
    )
    yield made
    made.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_shred_that_fails_or_is_killed_at_any_point_is_completed(matrix: Matrix, name: str) -> None:
    result = matrix.result(name)
    assert {point.name for point in result.points} == {step for step, _ in result.cases}
    for mode in (Mode.BEFORE, Mode.AFTER, Mode.KILLED):
        missed = {
            point.name
            for point in result.points
            if not result.cases[point.name, mode] and not (point.single and mode.early)
        }
        assert missed == set(), mode
    assert result.refused + result.spared == result.cases.total()
    assert 0 < result.spared < 5, "only a shred that was not announced may be undone"
    sys.stdout.write(f"\n{name} | {matrix_page.summary(result)}\n")


@pytest.mark.parametrize("name", MOVES)
def test_a_move_that_is_killed_at_any_point_goes_on(matrix: Matrix, name: str) -> None:
    result = matrix.result(name)
    assert result.refused == result.cases.total() > 5
    sys.stdout.write(f"\n{name} | {matrix_page.summary(result)}\n")


def test_every_provider_and_every_layer_is_in_the_matrix() -> None:
    words = {word for name in SITES for word in name.replace(",", "").split()}
    assert (set(PROVIDERS) - {"lost"}) | set(LAYERS) <= words


def test_the_page_lists_the_providers_and_the_steps_that_there_are(matrix: Matrix) -> None:
    results = matrix.results()
    if named := os.environ.get("FACEKEEP_MATRIX_PAGE"):
        Path(named).write_text(matrix_page.page(results))
    written = matrix_page.read(PAGE.read_text())
    assert {*NAMES, *MOVES} <= set(written) <= {*SITES, *MOVES}
    for name, result in results.items():
        assert written[name].keys() == {step for step, _ in result.cases}, name
        for (step, mode), count in result.cases.items():
            assert written[name][step][mode] >= count, (name, step, mode)
