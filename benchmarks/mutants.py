"""Mutation testing: one small change to a module that holds a promise, and its tests must notice.

    make mutants                                            all of them: many hours
    make mutants MUTANTS="--sample 20 --jobs 2 access/gate"    twenty mutants of one module
    make mutants MUTANTS="--again access/gate"                 those that survived, once more

A mutant is made in a copy of the checkout and meets the tests that mutants.toml names for its module, until
one fails. What was run stands in a file of JSON lines and is not run again; a seed fixes the order, so that a
larger sample contains the smaller one. mutants.toml lists changes that change nothing, by the line's text.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
MODULES: dict[str, list[str]] = _TABLE["tests"]
EQUIVALENT = {each.rpartition(" | ")[0] for each in _TABLE["equivalent"]}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or,
    ast.Or: ast.And, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change: ``nth`` tells apart what reads alike; ``source`` is the whole module with it."""

    module: str
    line: str
    change: str
    nth: int
    source: str

    @property
    def name(self) -> str:
        """What is mutated, however the lines are numbered."""
        return f"{self.module} | {self.line} | {self.change}"

    @property
    def key(self) -> str:
        """The name, and which of those that read alike."""
        return f"{self.name} | {self.nth}"


def swapped(node: ast.AST, field: str) -> Iterator[ast.AST]:
    """Yield the node with one of its operators replaced, each in turn."""
    found = getattr(node, field)
    for at, old in enumerate(found if isinstance(found, list) else [found]):
        if type(old) in SWAPS:
            new, put = copy.deepcopy(node), SWAPS[type(old)]()
            setattr(new, field, [*found[:at], put, *found[at + 1 :]] if isinstance(found, list) else put)
            yield new


def shorter(node: ast.AST, *fields: str) -> Iterator[ast.AST]:
    """Yield the node without one of its elements, each in turn."""
    for at in range(len(getattr(node, fields[0]))):
        new = copy.deepcopy(node)
        for field in fields:
            del getattr(new, field)[at]
        yield new.values[0] if isinstance(new, ast.BoolOp) and len(new.values) == 1 else new


def instead(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    match node:
        case ast.Compare():
            yield from swapped(node, "ops")
        case ast.BoolOp():
            yield from itertools.chain(swapped(node, "op"), shorter(node, "values"))
        case ast.BinOp(op=ast.Add()):
            yield from (node.left, node.right)
        case ast.BinOp() | ast.AugAssign():
            yield from swapped(node, "op")
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() as number):
            yield ast.Constant(number + 1)
        case ast.Set(elts=[_, _, *_]) | ast.Tuple(elts=[_, _, *_], ctx=ast.Load()):
            yield from shorter(node, "elts")
        case ast.Dict():
            yield from shorter(node, "keys", "values")
        case _:
            yield from instead_of_statement(node)


def instead_of_statement(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a statement's place."""
    match node:
        case (
            ast.Expr(value=ast.Call()) | ast.Raise() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()])
        ):
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
        case _:
            pass


def changes(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Yield (what is replaced, what takes its place): all that is done to one node, or to its condition."""
    yield from ((node, new) for new in instead(node))
    never, always = ast.Constant(value=False), ast.Constant(value=True)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield node.test, never
    if isinstance(node, ast.If | ast.IfExp):
        yield node.test, always
    if isinstance(node, ast.comprehension):
        yield from ((test, always) for test in node.ifs)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run: no annotation, decorator, text or format string."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "format_spec", "type_params"}:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST) and not isinstance(each, ast.JoinedStr):
                yield from walk(each)


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module."""
    text = (ROOT / "src/facekeep" / f"{module}.py").read_bytes()
    lines = text.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    found: list[Mutant] = []
    seen: Counter[tuple[str, str]] = Counter()
    for old, new in itertools.chain.from_iterable(map(changes, walk(ast.parse(text)))):
        begin = starts[old.lineno - 1] + old.col_offset
        end = starts[old.end_lineno - 1] + old.end_col_offset
        change, line = ast.unparse(new), lines[old.lineno - 1].decode().strip()
        put = change if isinstance(old, ast.stmt) else f"({change})"
        source = text[:begin].decode() + put + text[end:].decode()
        found.append(Mutant(module, line, change, seen[line, change], source))
        seen[line, change] += 1
    return [each for each in found if compiles(each.source)]


def compiles(source: str) -> bool:
    """Whether it is Python at all."""
    with contextlib.suppress(SyntaxError):
        compile(source, "mutant", "exec", dont_inherit=True)
        return True
    return False


class Bench:
    """Copies of the checkout, one for each process, and the tests that run in them."""

    def __init__(self, folder: Path, jobs: int) -> None:
        """Make the copies."""
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        self._free: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            for name in filter(None, listed.split("\0")):
                (folder / f"{job}" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / f"{job}" / name)
            self._free.put(folder / f"{job}")

    def run(self, module: str, source: str | None, timeout_s: float | None) -> tuple[str, float]:
        """Run a module's tests on another ``source``: ("survived" | "died" | "timeout", seconds)."""
        place = self._free.get()
        path = place / "src/facekeep" / f"{module}.py"
        original = path.read_text()
        try:
            path.write_text(original if source is None else source)
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)  # same size, same second
            return tested(place, module, timeout_s)
        finally:
            path.write_text(original)
            self._free.put(place)


def tested(place: Path, module: str, timeout_s: float | None) -> tuple[str, float]:
    """Run pytest in a copy, in a process group of its own, which a time-out ends."""
    files = [f"tests/test_{name}.py" for name in MODULES[module]]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(timeout_s)
        if code > 2:
            raise SystemExit(f"pytest does not run for {module}: exit code {code}")
        result = "died" if code else "survived"
    except subprocess.TimeoutExpired:
        result = "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return result, time.monotonic() - began


def report(chosen: Mapping[str, list[Mutant]], known: Mapping[str, str]) -> None:
    """Print what survived, counts for each module and in all."""
    total: Counter[str] = Counter()
    for module, each in chosen.items():
        found = Counter("equivalent" if it.name in EQUIVALENT else known[it.key] for it in each)
        for it in each:
            if is_left(it, known, again=True):
                print(f"SURVIVED {it.key}")
        print(f"{module}: {len(each)} mutants: {dict(found)}")
        total += found
        for name in sorted(EQUIVALENT - {it.name for it in mutants(module)}):
            if name.startswith(f"{module} | "):
                print(f"no such mutant any more: {name}")
    noticed = total["died"] + total["timeout"]
    print(f"in all {dict(total)}: {noticed / max(noticed + total['survived'], 1):.1%} noticed")


def is_left(mutant: Mutant, known: Mapping[str, str], *, again: bool) -> bool:
    """Whether a mutant is still to be run; ``again`` counts those that survived."""
    result = known.get(mutant.key)
    return mutant.name not in EQUIVALENT and (result is None or (again and result == "survived"))


def sample(module: str, seed: str, count: int | None) -> list[Mutant]:
    """Return some mutants of a module, the same whenever the seed is."""

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed}{mutant.key}".encode()).digest()

    return sorted(mutants(module), key=place)[:count]


def main() -> None:
    """Run what is asked for and has not been run, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as access/gate; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each module; default: all")
    parser.add_argument("--seed", default="", help="chooses the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="run survivors once more")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutants.jsonl")
    asked = parser.parse_args()
    os.nice(10)
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    known = {each["key"]: each["result"] for each in map(json.loads, lines)}
    chosen = {module: sample(module, asked.seed, asked.sample) for module in asked.modules or MODULES}
    guard = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(asked.jobs) as pool:
        bench = Bench(Path(folder), asked.jobs)

        def meet(mutant: Mutant, timeout_s: float) -> None:
            result, seconds = bench.run(mutant.module, mutant.source, timeout_s)
            line = {"key": mutant.key, "result": result, "seconds": round(seconds)}
            with guard, asked.results.open("a") as file:
                known[mutant.key] = result
                file.write(json.dumps(line) + "\n")
            print(f"{result:8} {mutant.key}", flush=True)

        for module, each in chosen.items():
            left = [mutant for mutant in each if is_left(mutant, known, again=asked.again)]
            result, seconds = bench.run(module, None, None) if left else ("survived", 0.0)
            if result != "survived":
                raise SystemExit(f"the tests of {module} fail without any mutant")
            list(pool.map(meet, left, itertools.repeat(60 + 10 * seconds)))
    report(chosen, known)


if __name__ == "__main__":
    main()
