"""docs/crash-matrix.md: written from results, and read back (test_crash_matrix)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from matrix_points import Mode
from matrix_run import FULL, Result
from matrix_sites import MOVES, SITES

HEAD: Final = """\
# The crash matrix

A shred replaces the root (SPEC §3.5).
Here every way to hold a root is made to fail at every point of it.
The components are real: a SoftHSM token, swtpm, an OpenBao server, GNOME's keyring; AWS KMS is moto's.
`tests/test_crash_matrix.py` makes each case and writes this page.
CI runs it with fewer modes where a holder is slow.

    FACEKEEP_MATRIX=full FACEKEEP_MATRIX_PAGE=docs/crash-matrix.md pytest tests/test_crash_matrix.py

A point is a step that the operation announces (`step`), a call of a holder, a change that a holder makes in
its file, token, TPM or server, or the commit of a database.
At each of them:

- **failed before**: an error comes instead of the effect;
- **failed after**: the effect is there, durable, and then an error comes;
- **killed**: the process dies by `kill -9`, once right before the effect and once right after it.

Then another process opens the vault and enrols somebody, which is all that a recovery needs. In every case:

1. each living person matches, the new one too;
2. whoever was shredded is refused, no key of theirs is left in the tree, and a data backup of before does not
   bring them back; only where the process ended before the intent was in the log, nothing was done;
3. the process in which it failed does not match them either, from the intent on;
4. each holder has one root, the current one, and nothing damaged; `check` finds nothing; nothing stays open;
5. no root that a holder gives opens the keys.db of before, nor does one from a copy of its holder file, be it
   of before the shred or of the moment of the failure;
6. a copy of a root *file* of before does open it, and so does what was sealed to a recovery key, with its
   private half: these limits stand in every receipt, as `copied_file` and `offline_key`;
7. an auditor replays the exported log and finds no rule broken.

Matched and refused count people asked for.
Roots tried are those that holders give, and copies of holder files.

"""

TOTALS: Final = (
    "| held by | points | failed before | failed after | killed "
    "| matched | refused | not begun | roots tried |"
)
POINTS: Final = """\

## Points

Cases that failed before, failed after, were killed.
A dash: there is no such point.

"""
MOVED: Final = """\

## Moves

A vault moves from one holder to another and is killed after each point.
Then somebody goes on (`keys resume`), or begins again where nothing was begun.
The old holder has nothing left; the rest is as above.
With a TPM the points are fewer: those after which what is on disk differs.

"""


def summary(result: Result) -> str:
    """One line of figures."""
    return " | ".join(map(str, figures(result)))


def figures(result: Result) -> tuple[int, ...]:
    by_mode = [sum(n for (_, of), n in result.cases.items() if of is mode) for mode in Mode]
    before, after, killed, killed_before = by_mode
    return (
        len(result.points), before, after, killed + killed_before,
        result.opened, result.refused, result.spared, result.roots,
    )  # fmt: skip


def page(results: Mapping[str, Result]) -> str:
    """The whole page."""
    sites = {name: results[name] for name in SITES if name in results}
    moves = {name: results[name] for name in MOVES if name in results}
    total = sum(each.cases.total() for each in results.values())
    which = "every combination" if FULL else "fewer modes for slow holders, as in CI"
    text = HEAD + f"{total:,} cases in all ({which}); none broke a promise.\n\n## Counts\n\n{_totals(sites)}"
    return text + POINTS + _table(sites) + MOVED + _totals(moves) + "\n" + _table(moves)


def _totals(results: Mapping[str, Result]) -> str:
    lines = [TOTALS, "|" + "---|" * (TOTALS.count("|") - 1)]
    lines += [f"| {name} | {summary(each)} |" for name, each in results.items()]
    return "\n".join(lines) + "\n"


def _table(results: Mapping[str, Result]) -> str:
    """Steps in the order in which they come, as far as the sites agree."""
    steps: list[str] = []
    for result in sorted(results.values(), key=lambda each: -len(each.points)):
        at = 0
        tried = {step for step, _ in result.cases}
        for point in (each for each in result.points if each.name in tried):
            if point.name in steps:
                at = max(at, steps.index(point.name) + 1)
            else:
                steps.insert(at, point.name)
                at += 1
    lines = ["| point | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for step in steps:
        cells = (_cell(result, step) for result in results.values())
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(result: Result, step: str) -> str:
    before, after, killed, killed_before = (result.cases[step, mode] for mode in Mode)
    counts = (before, after, killed + killed_before)
    return " ".join(map(str, counts)) if any(counts) else "-"


def read(text: str) -> dict[str, dict[str, dict[Mode, int]]]:
    """name -> step -> mode -> count, from the tables of points; both kinds of kill count together."""
    found: dict[str, dict[str, dict[Mode, int]]] = {}
    names: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| point |"):
            names = cells[1:]
            found |= {name: {} for name in names}
        elif not line.startswith("|"):
            names = []
        elif names and not line.startswith("|---"):
            for name, cell in zip(names, cells[1:], strict=True):
                if cell != "-":
                    before, after, killed = map(int, cell.split())
                    found[name][cells[0]] = dict(zip(Mode, (before, after, killed, killed), strict=True))
    return found
