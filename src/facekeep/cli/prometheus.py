"""The vault's state as Prometheus text, version 0.0.4: for a node exporter's textfile collector.

No label names a person, a path or a host. All are gauges: the vault counts nothing across restarts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from facekeep.formats.canonical import JsonObject, JsonValue

Labels = Mapping[str, str]
_STATES = ("live", "expired", "pending")


class Metric(NamedTuple):
    """One metric: its name without prefix, what it is, and its samples."""

    name: str
    help: str
    samples: list[tuple[Labels, int | float]]


def render(found: JsonObject) -> str:
    """Return the text of a status."""
    lines: list[str] = []
    for metric in _metrics(found):
        name = f"facekeep_{metric.name}"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {value}" for labels, value in metric.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _metrics(found: JsonObject) -> Iterator[Metric]:
    yield _one("status_timestamp_seconds", "When this was taken, Unix time.", _seconds(found["time_ms"]))
    yield Metric(
        "vault_info",
        "Constant 1: which vault, and where it processes templates.",
        [({"vault": str(found["vault"]), "region": str(found["region"])}, 1)],
    )
    for name, key, words in _NUMBERS:
        yield _one(name, words, _count(found[key]))
    yield _one("root_replaced_timestamp_seconds", "When the root key was last replaced, Unix time.",
               _seconds(found["swapped_at_ms"]))  # fmt: skip
    yield from _scopes(found)
    yield from _health(found)
    yield from _dates(found)


_NUMBERS = (
    ("epoch", "epoch", "Root replacements so far, the first root counted."),
    ("log_entries", "entries", "Entries of the audit log."),
    ("rows", "rows", "Sealed grants in vault.db."),
    ("grants_missing", "missing", "Living grants without a row in vault.db."),
    ("grants_waiting", "expire_waiting", "Lapsed grants whose destruction waits for a person."),
    ("operations_pending", "pending", "Operations that were announced and not finished."),
    ("branches_free", "branches_free", "Free positions of the key tree, 1,728,000 slots each."),
)


def _one(name: str, words: str, value: float) -> Metric:
    return Metric(name, words, [({}, value)])


def _scopes(found: JsonObject) -> Iterator[Metric]:
    scopes = sorted(_object(found["scopes"]).items())
    yield Metric(
        "grants",
        "Grants by scope and state.",
        [
            ({"scope": scope, "state": state}, _count(_object(of)[state]))
            for scope, of in scopes
            for state in _STATES
        ],
    )
    for key, words in (("used", "Slots given out so far"), ("free", "Slots left in the scope's branch")):
        samples: list[tuple[Labels, int | float]] = [
            ({"scope": scope}, _count(_object(of)[key])) for scope, of in scopes
        ]
        yield Metric(f"slots_{key}", f"{words}.", samples)


def _health(found: JsonObject) -> Iterator[Metric]:
    holders = enumerate(_objects(found["holders"]))
    yield Metric(
        "holder_ok",
        "Whether a root holder is there, whole, and has the root in force.",
        [
            (
                {"class": str(each["class"]), "holder": str(at), "role": str(each["role"]),
                 "scheme": str(each["scheme"])},
                int(each["state"] == "current" and not each["trouble"]),
            )
            for at, each in holders
        ],
    )  # fmt: skip
    copies: dict[str, int] = {}
    samples: list[tuple[Labels, int | float]] = []
    for each in _objects(found["copies"]):
        file = str(each["file"])
        copies[file] = copies.get(file, -1) + 1
        samples.append(({"copy": str(copies[file]), "file": file}, int(each["state"] == "current")))
    yield Metric("copy_current", "Whether a live second copy is up to date.", samples)
    yield _one("warnings", "Warnings that 'facekeep status' shows.", len(_objects(found["warnings"])))


def _dates(found: JsonObject) -> Iterator[Metric]:
    for name in ("backup", "checkpoint"):
        last = found[name]
        if isinstance(last, dict):
            yield _one(
                f"{name}_timestamp_seconds",
                f"When the last {name} was made, Unix time.",
                _seconds(last["time_ms"]),
            )
    dues = [({"what": str(each["what"])}, each) for each in _objects(found["due"])]
    yield Metric(
        "due", "Whether something of the schedule is due.", [(at, int(bool(due["due"]))) for at, due in dues]
    )
    yield Metric(
        "due_timestamp_seconds",
        "When it is due, Unix time.",
        [(at, _seconds(due["due_ms"])) for at, due in dues],
    )


def _seconds(ms: JsonValue) -> float:
    return _count(ms) / 1000


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(values: JsonValue) -> list[JsonObject]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
