"""A 1:1 decision alone: what it compares, what it asks the log for, what it tries again, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.access.core import Core
from facekeep.access.gate import Ask, Verdict, evaluate
from facekeep.access.roles import Action
from facekeep.auditlog.brake import Asked
from facekeep.auditlog.group import ControlMoved
from facekeep.errors import ClockError, Denied, IntegrityError, Unavailable
from facekeep.formats.entryrules import Reason
from facekeep.matching.answers import Verification
from facekeep.operations import decide as module
from facekeep.operations.decide import Question
from facekeep.vault import Role, Threshold, Vault
from vaultlab import MODEL, THRESHOLD, VERIFY, Lab, core, face, log_entries

ASK = Ask(Action.VERIFY, VERIFY, MODEL.id, MODEL.dimension, MODEL.metric, "DE")


@dataclass
class Door:
    """An open vault, as somebody sees it, and what the log was asked for."""

    lab: Lab
    vault: Vault
    asked: list[dict[str, Any]]

    @property
    def core(self) -> Core:
        return core(self.vault)

    def question(
        self, probe: str = "alice", limit: Threshold = THRESHOLD, *, score: bool = False
    ) -> Question:
        return Question(face(probe), MODEL, limit, ASK, score)

    def ask(self, question: Question | None = None, whom: bytes = b"alice") -> Verification:
        return module.verify(self.core, self.vault._session, whom, question or self.question())

    def last(self) -> dict[str, Any]:
        return dict(log_entries(self.vault)[-1])


def _door(lab: Lab, monkeypatch: pytest.MonkeyPatch, vault: Vault) -> Door:
    made = Door(lab, vault, [])
    real = core(vault).log.decide

    def decide(entry: Any, **given: Any) -> int:  # noqa: ANN401 - as the log has it
        made.asked.append(given)
        return real(entry, **given)

    monkeypatch.setattr(core(vault).log, "decide", decide)
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    return lab


@pytest.fixture
def service(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as vault:
        yield _door(lab, monkeypatch, vault)


@pytest.fixture
def owner(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with lab.open() as vault:
        yield _door(lab, monkeypatch, vault)


@pytest.mark.parametrize("probe", ["alice", "bob"])
def test_an_answer_is_that_of_the_distance_and_counts_against_who_asked(service: Door, probe: str) -> None:
    found = service.ask(service.question(probe))
    assert found.match is (probe == "alice")
    assert found.score is None
    (given,) = service.asked
    entry = service.last()
    assert given["asked"] == Asked(service.vault._session.by, entry["tag"], found.match)
    assert given["allow"] is True
    assert given["valid_until_ms"] == service.lab.clock.ms + 30 * 24 * 3_600_000
    assert (entry.get("score", False), entry["threshold_e6"]) == (False, 500_000)


def test_who_sets_the_limits_is_not_bound_by_them(owner: Door) -> None:
    other = replace(THRESHOLD, value=0.6)
    assert owner.ask(owner.question(limit=other)).match
    assert [each["asked"] for each in owner.asked] == [None]
    found = owner.ask(owner.question("bob", other, score=True))
    assert not found.match
    assert found.score is not None
    assert owner.last()["score"] is True
    assert owner.last()["threshold_e6"] == 600_000


def refused(door: Door, question: Question, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compared, and the log has the reason."""
    monkeypatch.setattr(module, "_compare", lambda *_: pytest.fail("it was compared"))
    with pytest.raises(Denied) as caught:
        door.ask(question)
    entry = door.last()
    assert str(caught.value.decision).startswith(f"{len(log_entries(door.vault)) - 1}-")
    assert entry["reason"] == word
    assert not entry.get("score")
    assert door.asked[-1]["asked"] is None
    assert door.asked[-1]["allow"] is False
    assert door.asked[-1]["valid_until_ms"] > door.lab.clock.ms * 1000


def test_a_limit_that_is_not_registered_is_refused(service: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(service, service.question(limit=replace(THRESHOLD, value=0.6), score=True), "policy", monkeypatch)


def test_who_asks_too_often_is_refused(service: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.core.log, "refuses", lambda *_: True)
    refused(service, service.question(), "rate", monkeypatch)


def test_several_photographs_are_held_to_the_limit_of_their_mean(owner: Door) -> None:
    many = np.array([face("carol"), face("carol") + 0.01, face("carol") - 0.01], np.float32)
    owner.vault.enroll("carol", embeddings=many, model=MODEL, consent=owner.lab.consent(VERIFY))
    limits = replace(THRESHOLD, value=0.5, mean_value=0.4)
    assert owner.ask(owner.question("carol", limits), b"carol").match
    assert owner.last()["threshold_e6"] == 400_000
    assert owner.ask(owner.question("alice", limits)).match
    assert owner.last()["threshold_e6"] == 500_000


@pytest.mark.parametrize("missing", ["row", "terms", "permit"])
def test_a_verdict_that_lacks_something_opens_nothing_and_answers_nothing(
    owner: Door, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    without: dict[str, Any] = {missing: None}

    def lacking(*given: Any, **rest: Any) -> Verdict:  # noqa: ANN401 - as the gate has them
        verdict = evaluate(*given, **rest)
        assert verdict.reason is Reason.OK
        return verdict._replace(**without)

    verdict = lacking(owner.core, owner.vault._session, ASK, b"alice", owner.core.view())
    with pytest.raises(IntegrityError):
        module._compare(owner.core, verdict, owner.question())
    monkeypatch.setattr(module, "evaluate", lacking)
    with pytest.raises(Unavailable):
        owner.ask()
    assert owner.last()["allow"] is False
    assert owner.last()["reason"] == "integrity"


def test_a_refusal_that_a_swap_may_have_caused_is_looked_at_again(
    owner: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[bool] = []

    def evaluating(*given: Any, **rest: Any) -> Verdict:  # noqa: ANN401 - as the gate has them
        again.append(rest["again"])
        verdict = evaluate(*given, **rest)
        return verdict._replace(reason=Reason.SUBJECT_UNKNOWN, permit=None) if len(again) == 1 else verdict

    monkeypatch.setattr(module, "evaluate", evaluating)
    monkeypatch.setattr(Core, "is_past", lambda *_: len(again) == 1)
    assert owner.ask().match
    assert again == [False, True]
    assert len(owner.asked) == 1


@pytest.mark.parametrize("error", [ControlMoved("x"), ClockError("x")])
def test_what_changed_meanwhile_is_decided_again_and_not_for_ever(
    owner: Door, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real, times = owner.core.log.decide, [2]

    def moving(entry: Any, **given: Any) -> int:  # noqa: ANN401 - as the log has it
        times[0] -= 1
        if times[0] >= 0 and given["allow"]:
            raise error
        return real(entry, **given)

    monkeypatch.setattr(owner.core.log, "decide", moving)
    assert owner.ask().match
    assert times == [-1]
    times[0] = 1000
    with pytest.raises(Unavailable, match="changed too often"):
        owner.ask()
    assert owner.last()["reason"] == "unavailable"
    assert times[0] == 1000 - module.ATTEMPTS - 1


def test_what_the_gate_refuses_is_refused_for_its_own_reason(
    service: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.lab.clock.ms += 31 * 24 * 3_600_000
    refused(service, service.question(), "expired", monkeypatch)
