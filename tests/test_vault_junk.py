"""Whatever a public call is given: an answer, or an error of ours."""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekeep.errors import FacekeepError
from facekeep.matching.gallery import Gallery
from facekeep.matching.model import Model
from facekeep.matching.raw import raw_model
from facekeep.vault import (
    Consent,
    Enrolment,
    Existing,
    Holders,
    Keys,
    Notice,
    Role,
    Scope,
    Selection,
    Threshold,
    Vault,
)
from vaultlab import MODEL, NOTICE, THRESHOLD, VERIFY, Lab, face

#: Ends the vault, or takes seconds whatever it is given.
LEFT_OUT: Final = frozenset({"Vault.close", "Gallery.close"})
_ODD: Final[list[object]] = [
    None, True, False, 0, -1, 2**63, 10**400, -0.0, 1.5, float("nan"), float("inf"), 1e308, 2 + 1j,
    "", " ", "x", "alice", "\0", "\ud800", "a" * 70_000, "../..", ".", "/", "file:", "\n", "٣", "raw:x/1",
    b"", b"x", b"\xff" * 100, bytearray(b"x"), memoryview(b"x"), (), [], {}, set(), [None], [[]], ["\ud800"],
    [1, "x"], {"a": 1}, range(3), object(), NotImplemented, ..., Exception("x"),
    dt.datetime(2030, 1, 1),  # noqa: DTZ001 - that is the junk
    dt.datetime(2030, 1, 1, tzinfo=dt.UTC), dt.date(2030, 1, 1), dt.timedelta(days=10**8),
    Path(), Path("nothing"), Path("\0"), Path("a" * 5_000), Path("/dev/null"), Path("/proc/self/mem"),
    np.float32("nan"), np.int64(7), np.array([]), np.array(3), np.array(["x"]), np.full((2, 32), np.nan),
    np.ma.masked, Scope.VERIFY, Role.DPO, Existing.ADD, MODEL, THRESHOLD, NOTICE,
]  # fmt: skip
JUNK: Final = st.one_of(
    st.sampled_from(_ODD),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(),
    st.floats(),
    st.lists(st.one_of(st.sampled_from(_ODD), st.text(max_size=5), st.integers()), max_size=3),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Vault, Gallery, dict[str, Any]]]:
    """An open vault in a directory of its own, and values that its calls take."""
    base = tmp_path_factory.mktemp("junk")
    lab = Lab(base).create()
    lab.enrol("alice", "bob")
    before = Path.cwd()
    os.chdir(base)
    consent = lab.consent(VERIFY)
    right: dict[str, Any] = {
        "subject": "alice", "consent": consent, "scopes": [VERIFY], "probe": face("alice"), "top": 1,
        "model": MODEL, "threshold": THRESHOLD, "embeddings": face("carol"), "region": "DE",
        "clock": lab.clock, "path": base / "new", "token": lab.token, "root": f"file:{base / 'new.key'}",
        "existing": "replace", "enrolments": [lab.enrolment("carol")], "label": "door",
        "roles": [Role.SERVICE], "target": base / "backup", "identity": "1-00000000",
        "directory": base / "export", "proofs": [], "dry_run": True, "text": "raw:x/1:4:l2",
    }  # fmt: skip
    with lab.open() as vault, vault.gallery(model=MODEL) as gallery:
        yield vault, gallery, right
    os.chdir(before)


def surface(vault: object, gallery: object, keys: object) -> dict[str, Callable[..., Any]]:
    """Every public call of these, by name, and what makes or reads a value."""
    found = {
        f"{kind.__name__}.{name}": getattr(owner, name)
        for kind, owner in ((Vault, vault), (Gallery, gallery), (Keys, keys))
        for name, member in vars(kind).items()
        if not name.startswith("_") and not isinstance(member, property)
    }
    return found | {
        "Consent": Consent, "Notice": Notice, "Notice.from_file": Notice.from_file, "Enrolment": Enrolment,
        "Model": Model, "Scope.from_word": Scope.from_word, "Holders": Holders, "Selection": Selection,
        "Threshold.from_json": Threshold.from_json, "Threshold.from_text": Threshold.from_text,
        "raw_model": raw_model,
    }  # fmt: skip


def tried(call: Callable[..., object], arguments: dict[str, Any], several: tuple[object, ...] = ()) -> None:
    with contextlib.suppress(FacekeepError):
        answer = call(*several, **arguments)
        if isinstance(answer, Iterator):
            list(answer)
        if isinstance(answer, Vault | Gallery):
            answer.close()


@pytest.mark.parametrize("name", sorted(surface(Vault, Gallery, Keys).keys() - LEFT_OUT))
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_argument_of_any_call(
    place: tuple[Vault, Gallery, dict[str, Any]], name: str, data: st.DataObject
) -> None:
    vault, gallery, right = place
    call = surface(vault, gallery, vault.keys)[name]
    parameters = inspect.signature(call).parameters.values()
    several: tuple[object, ...] = ()
    given: dict[str, Any] = {}
    bad = data.draw(st.sampled_from([each.name for each in parameters] or [""]))
    for each in parameters:
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            several = (data.draw(JUNK),)
        elif each.name == bad or (each.default is inspect.Parameter.empty and each.name not in right):
            given[each.name] = data.draw(JUNK)
        elif each.name in right:
            given[each.name] = right[each.name]
    tried(call, given, several)


@pytest.mark.parametrize("field", [*Consent.__dataclass_fields__])
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(junk=JUNK)
def test_a_consent_of_anything(
    place: tuple[Vault, Gallery, dict[str, Any]], field: str, junk: object
) -> None:
    vault, _, right = place

    def act() -> None:
        consent = replace(right["consent"], **{field: junk})
        vault.enroll("dora", embeddings=face("dora"), model=MODEL, consent=consent, existing="replace")

    tried(act, {})


@pytest.mark.parametrize("field", [*Enrolment.__dataclass_fields__])
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(junk=JUNK)
def test_an_enrolment_of_anything(
    place: tuple[Vault, Gallery, dict[str, Any]], field: str, junk: object
) -> None:
    vault, _, right = place

    def act() -> None:
        enrolment = replace(right["enrolments"][0], **{field: junk})
        vault.enroll_many([enrolment], existing="replace")

    tried(act, {})


@pytest.mark.parametrize("field", [*Threshold.__dataclass_fields__])
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(junk=JUNK)
def test_a_threshold_of_anything(
    place: tuple[Vault, Gallery, dict[str, Any]], field: str, junk: object
) -> None:
    vault, _, _ = place
    made: Any = {field: junk}

    def act() -> object:
        return vault.verify("bob", face("bob"), model=MODEL, threshold=replace(THRESHOLD, **made))

    tried(act, {})
