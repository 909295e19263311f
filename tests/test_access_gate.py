"""The gate alone: which class each refusal has, what is asked again, what becomes of an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from facekeep.access.core import Core, View
from facekeep.access.gate import Ask, denying, evaluate, is_doubtful, reason_of, refusal
from facekeep.access.roles import Action
from facekeep.access.session import Session
from facekeep.errors import (
    Denied,
    FacekeepError,
    FormatError,
    IntegrityError,
    SettingsChanged,
    StoreError,
    Unavailable,
    UsageError,
    VaultClosed,
)
from facekeep.formats.canonical import JsonObject
from facekeep.formats.decisions import decision_verify
from facekeep.formats.entryrules import Reason
from facekeep.formats.terms import Terms
from facekeep.keys.tree import TreeStale
from vaultlab import DAY, MODEL, NOW, VERIFY, Lab, core

OF_THE_VAULT = {"terms", "clock", "integrity", "unavailable"}
ASKED_AGAIN = {
    "principal_unknown",
    "principal_revoked",
    "subject_unknown",
    "destroyed",
    "integrity",
    "unavailable",
}
REFUSALS = [each for each in Reason if each is not Reason.OK]


class Recorder:
    """What ``denying`` needs of a core: a clock, a log that may fail, a way to open anew."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.recorded: list[JsonObject] = []
        self.reopened = 0
        self.clock = self.log = self

    def now_ms(self) -> int:
        return NOW

    def head(self) -> SimpleNamespace:
        return SimpleNamespace(control_seq=7)

    def decide(self, entry: JsonObject, *, control_seq: int, valid_until_ms: int, allow: bool) -> int:
        if self.fails:
            raise self.fails
        assert (control_seq, allow) == (7, False)
        assert valid_until_ms > NOW + 1000 * 365 * DAY  # a denial does not lapse
        self.recorded.append(entry)
        return 12

    def reopen(self) -> None:
        self.reopened += 1


def _denial(reason: Reason, now_ms: int) -> JsonObject:
    return decision_verify(
        by=None, time_ms=now_ms, reason=reason, scope="verify", region="DE", model="raw:lab/1"
    )


def _denied(recorder: Recorder, error: Exception) -> FacekeepError:
    with pytest.raises(FacekeepError) as caught, denying(cast("Core", recorder), _denial):
        raise error
    return caught.value


@pytest.mark.parametrize("word", REFUSALS)
def test_a_refusal_is_of_the_class_of_its_reason(word: Reason) -> None:
    error = refusal(word, "12-abcdefgh")
    assert type(error) is (Unavailable if word.value in OF_THE_VAULT else Denied)
    assert error.decision == "12-abcdefgh"


@pytest.mark.parametrize("word", list(Reason))
def test_only_what_a_swap_may_cause_is_asked_again(word: Reason) -> None:
    for past in (True, False):
        inside = cast("Core", SimpleNamespace(is_past=lambda _view, past=past: past))
        assert is_doubtful(inside, cast("View", None), word) is (past and word.value in ASKED_AGAIN)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (IntegrityError("x"), "integrity"),
        (FormatError("x"), "integrity"),
        (TreeStale("x"), "unavailable"),
        (StoreError("x"), "unavailable"),
        (KeyError("x"), "unavailable"),
    ],
)
def test_what_went_wrong_has_a_reason(error: Exception, word: str) -> None:
    assert reason_of(error).value == word


@pytest.mark.parametrize(
    "error", [Denied(decision="3-a"), Unavailable(decision="3-a"), UsageError("x"), VaultClosed("x")]
)
def test_what_was_said_already_leaves_as_it_is(error: Exception) -> None:
    recorder = Recorder()
    assert _denied(recorder, error) is error
    assert recorder.recorded == []


def test_other_settings_are_followed_and_asked_again() -> None:
    recorder = Recorder()
    error = SettingsChanged("x")
    assert _denied(recorder, error) is error
    assert recorder.reopened == 1
    assert recorder.recorded == []


def test_settings_that_cannot_be_followed_are_a_denial_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()

    def fails() -> None:
        raise StoreError("vault.toml is away")

    monkeypatch.setattr(recorder, "reopen", fails)
    with pytest.raises(Unavailable, match=r"vault\.toml is away"), denying(cast("Core", recorder), _denial):
        raise SettingsChanged("x")
    assert [each["reason"] for each in recorder.recorded] == ["unavailable"]


@pytest.mark.parametrize(
    ("error", "word", "said", "following"),
    [
        (StoreError("keys.db is away", next="mount it"), "unavailable", "keys.db is away", "mount it"),
        (IntegrityError("keys.db was altered", next="look"), "integrity", "keys.db was altered", "look"),
        (FormatError("byte 7 of a record"), "integrity", "unavailable", None),
        (OSError(5, "secret detail"), "unavailable", "unavailable", None),
    ],
)
def test_a_failure_is_recorded_and_only_our_own_words_leave(
    error: Exception, word: str, said: str, following: str | None
) -> None:
    recorder = Recorder()
    told = _denied(recorder, error)
    assert type(told) is Unavailable
    assert str(told) == said
    assert [each["reason"] for each in recorder.recorded] == [word]
    assert told.decision == f"12-{str(recorder.recorded[0]['nonce'])[:8]}"
    assert told.next == (following or Unavailable().next)


@pytest.mark.parametrize("error", [FormatError("byte 7"), OSError(5, "secret detail")])
def test_a_failure_that_cannot_be_recorded_says_that_nothing_was_answered(error: Exception) -> None:
    told = _denied(Recorder(fails=StoreError("disk full")), error)
    assert isinstance(told, Unavailable)
    assert told.decision is None
    assert str(told) == f"nothing was answered ({type(error).__name__})"


def _asked(lab: Lab, judge: Callable[[Core, Session, View, Ask], None]) -> None:
    with lab.open() as vault:
        ask = Ask(Action.VERIFY, VERIFY, MODEL.id, MODEL.dimension, MODEL.metric, "DE")
        judge(core(vault), vault._session, core(vault).view(), ask)


@pytest.mark.parametrize("first", ["good", "bad"])
def test_one_row_that_answers_is_enough_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("bob")

    def judge(opened: Core, session: Session, view: View, ask: Ask) -> None:
        tag, rows = opened.lookup(view, b"bob")
        good = next(row for row in rows if view.kind_of(row.slot) == VERIFY)
        late = replace(Terms.unpack(good.terms), expires_at_ms=lab.clock.ms + 3000 * DAY)
        bad = good._replace(terms=late.pack())
        put = [good, bad] if first == "good" else [bad, good]
        monkeypatch.setattr(Core, "lookup", lambda *_: (tag, put))
        verdict = evaluate(opened, session, ask, b"bob", view)
        assert verdict.reason is Reason.OK
        assert verdict.row is good

    _asked(lab, judge)


def test_the_files_are_looked_at_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("bob")

    def replaced(_core: Core) -> None:
        raise StoreError("keys.db was replaced")

    def judge(opened: Core, session: Session, view: View, ask: Ask) -> None:
        assert evaluate(opened, session, ask, b"bob", view).reason is Reason.OK  # found once
        monkeypatch.setattr(Core, "check_files", replaced)
        assert evaluate(opened, session, ask, b"bob", view, again=False).reason is Reason.OK
        assert evaluate(opened, session, ask, b"bob", view).reason is Reason.UNAVAILABLE

    _asked(lab, judge)


def test_a_clock_that_was_set_back_answers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path).create()
    lab.enrol("bob")

    def judge(opened: Core, session: Session, view: View, ask: Ask) -> None:
        assert evaluate(opened, session, ask, b"bob", view).reason is Reason.OK
        monkeypatch.setattr(type(opened.clock), "is_steady", False)
        assert evaluate(opened, session, ask, b"bob", view).reason is Reason.CLOCK

    _asked(lab, judge)
