"""Somebody with a service's token, and no file, asks: who is there, how near, until a face is found."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pytest

from facekeep.audit.replay import replay
from facekeep.errors import Denied, IntegrityError, NotAllowed, UsageError
from facekeep.formats.entries import encode
from facekeep.formats.matching import CALIBRATED
from facekeep.matching.model import Floats, Model, score
from facekeep.matching.threshold import default_threshold
from facekeep.vault import Role, Threshold, Vault
from vaultlab import DAY, DIMENSION, MODEL, THRESHOLD, Lab, core, face, log_entries, matches, threshold

HOUR = 3_600_000
LIMIT = 0.5469  # of the default extractor, for one photograph
WIDE = threshold(value=1e9)
Ask = Callable[[Vault], object]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob", "carol")
    return lab


@pytest.fixture
def service(lab: Lab) -> Iterator[Vault]:
    """A service; its log passes the auditor's rules afterwards."""
    with lab.open(lab.add_principal(Role.SERVICE)) as vault:
        yield vault
        assert not replay(map(encode, log_entries(vault))).notes


def why(vault: Vault, ask: Ask) -> str:
    """Reason in the log of what an ask came to: one decision, whatever the answer."""
    before = core(vault).log.head().size
    with contextlib.suppress(Denied):
        ask(vault)
    assert core(vault).log.head().size == before + 1
    return str(core(vault).log.entry(before)["reason"])


class More(TypedDict, total=False):
    """What may be asked besides."""

    model: Model
    threshold: Threshold
    region: str
    with_score: bool


def ask(name: str, probe: str | None = None, **more: Unpack[More]) -> Ask:
    """1:1, with a face."""
    given: More = {"model": MODEL, "threshold": THRESHOLD, **more}
    return lambda vault: vault.verify(name, face(probe or name), **given)


def search(probe: str = "alice", top: int = 5, **more: Unpack[More]) -> Ask:
    """1:N, with a face."""
    given: More = {"model": MODEL, "threshold": THRESHOLD, **more}
    return lambda vault: vault.identify(face(probe), top, **given)


def fail(vault: Vault, name: str, times: int = 1) -> None:
    """Ask with a stranger's face, answered each time."""
    for _ in range(times):
        assert not matches(vault, name, "a stranger")


# Thresholds, scores and numbers of the caller's own


@pytest.mark.parametrize(
    "asked",
    [
        ask("alice", threshold=WIDE),
        ask("alice", threshold=threshold(value=0.499)),
        ask("alice", threshold=Threshold.from_json(THRESHOLD.to_json() | {"mean_value": 0.3})),
        ask("alice", with_score=True),
        search(threshold=WIDE),
        search(threshold=Threshold.from_json(THRESHOLD.to_json() | {"mean_value": 0.3})),
        search(top=6),
        search(with_score=True),
    ],
)
def test_a_threshold_a_score_or_a_number_of_the_callers_own(service: Vault, asked: Ask) -> None:
    assert why(service, asked) == "policy"
    assert why(service, ask("alice")) == why(service, search()) == "ok"


def test_an_own_gallery_lists_nobody_and_gives_no_distance(service: Vault) -> None:
    with service.gallery(model=MODEL) as gallery:
        assert why(service, lambda _: gallery.search(face("alice"), WIDE, 5)) == "policy"
        assert why(service, lambda _: gallery.search(face("alice"), THRESHOLD, 1_000)) == "policy"
        assert (
            why(service, lambda _: gallery.search(face("alice"), THRESHOLD, 5, with_score=True)) == "policy"
        )
        found = gallery.search(face("alice"), THRESHOLD, 5)
    assert [(each.subject, each.score) for each in found.candidates] == [("alice", None)]


def test_a_model_without_a_registered_threshold_is_for_operators(lab: Lab) -> None:
    other = Model("raw:other", "1", 32, "l2")
    token = lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        consent = lab.consent(*lab.enrolment("dora").consent.scopes)
        vault.enroll("dora", embeddings=face("dora"), model=other, consent=consent)
        own = threshold(other)
        assert vault.verify("dora", face("dora"), model=other, threshold=own).match
    asked = ask("dora", model=other, threshold=own)
    assert lab.do(lambda vault: why(vault, asked), token) == "policy"
    lab.do(lambda vault: vault.change_settings(thresholds=[own]))
    assert lab.do(lambda vault: why(vault, asked), token) == "ok"
    assert lab.do(lambda vault: vault.verify("dora", face("dora"), model=other).match, token)
    lab.do(lambda vault: vault.change_settings(no_thresholds=[other.id]))
    assert lab.do(lambda vault: why(vault, asked), token) == "policy"


def test_a_search_has_a_threshold_of_its_own(lab: Lab) -> None:
    strict = threshold(value=0.3)
    token = lab.add_principal(Role.SERVICE)
    lab.do(lambda vault: vault.change_settings(search_thresholds=[strict]))
    with lab.open(token) as vault:
        assert why(vault, search()) == why(vault, ask("alice", threshold=strict)) == "policy"
        assert why(vault, search(threshold=strict)) == why(vault, ask("alice")) == "ok"
        assert vault.identify(face("alice"), model=MODEL).threshold == strict
        assert vault.verify("alice", face("alice"), model=MODEL).threshold == THRESHOLD


def test_the_answer_outside_is_the_same_for_every_reason(service: Vault) -> None:
    fail(service, "alice", 5)
    for asked in (ask("alice"), ask("alice", threshold=WIDE), ask("nobody"), search(top=1_000)):
        with pytest.raises(Denied, match=r"^denied$"):
            asked(service)


def test_a_service_changes_no_limit(service: Vault) -> None:
    with pytest.raises(NotAllowed):
        service.change_settings(matching=["scores=yes"])
    with pytest.raises(NotAllowed):
        service.change_settings(thresholds=[WIDE])


def test_limits_edited_in_vault_toml_are_refused(lab: Lab) -> None:
    path = lab.path / "vault.toml"
    text = path.read_text()
    path.write_text(text.replace("[matching]\n", "[matching]\nscores = true\n"))
    with pytest.raises(IntegrityError, match="edited by hand"):
        lab.do(lambda vault: vault.settings)


def test_an_operator_is_bound_by_none_and_its_decisions_say_what_it_used(lab: Lab) -> None:
    means = Threshold.from_json(WIDE.to_json() | {"mean_value": 0.25})
    with lab.open() as vault:
        found = vault.identify(face("alice"), 2, model=MODEL, threshold=means, with_score=True)
        assert len(found.candidates) == 2
        entry: Any = log_entries(vault)[-1]
    assert (entry["threshold_e6"], entry["mean_e6"]) == (10**15, 250_000)
    assert (entry["most"], entry["score"]) == (2, True)
    lab.clean()


def test_what_was_not_cut_and_gave_no_score_says_so_by_silence(service: Vault) -> None:
    assert why(service, search()) == why(service, ask("alice")) == "ok"
    for entry in log_entries(service)[-2:]:
        assert not {"mean_e6", "most", "score"} & entry.keys()


def test_scores_leave_in_steps_where_the_settings_let_them(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    lab.do(lambda vault: vault.change_settings(matching=["scores=yes"]))
    probe = face("alice") + np.float32(0.0123)
    with lab.open(token) as vault:
        scored = vault.verify("alice", probe, model=MODEL, with_score=True)
        found = vault.identify(probe, model=MODEL, with_score=True).candidates[0]
        assert [entry.get("score") for entry in log_entries(vault)[-2:]] == [True, True]
    assert scored.score == found.score == round(float(np.linalg.norm(probe - face("alice"))), 2)


# The brake


def test_the_sixth_guess_waits_and_so_does_the_true_face(lab: Lab, service: Vault) -> None:
    fail(service, "alice", 5)
    assert why(service, ask("alice", "a stranger")) == why(service, ask("alice")) == "rate"
    lab.clock.ms += 29_999
    assert why(service, ask("alice")) == "rate"
    lab.clock.ms += 1
    assert why(service, ask("alice")) == "ok"
    fail(service, "alice", 5)  # a match has ended the row


def test_pauses_double_up_to_the_longest(lab: Lab, service: Vault) -> None:
    fail(service, "alice", 5)
    for pause_s in (30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600):
        lab.clock.ms += pause_s * 1_000 - 1
        assert why(service, ask("alice", "a stranger")) == "rate"
        lab.clock.ms += 1
        fail(service, "alice")


def test_alternating_between_two_people_resets_nothing(service: Vault) -> None:
    for _ in range(5):
        fail(service, "alice")
        fail(service, "bob")
        assert matches(service, "carol")
    assert why(service, ask("alice")) == why(service, ask("bob")) == "rate"
    assert why(service, ask("carol")) == "ok"


def test_opening_again_resets_nothing(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    for _ in range(5):
        lab.do(lambda vault: fail(vault, "alice"), token)
    assert lab.do(lambda vault: why(vault, ask("alice")), token) == "rate"


def test_other_processes_of_the_same_token_reset_nothing(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    for _ in range(2):
        lab.fork(lambda: lab.do(lambda vault: fail(vault, "alice", 2), token)).wait()
    with lab.open(token) as vault:
        fail(vault, "alice")
    assert lab.fork(lambda: lab.do(lambda vault: why(vault, ask("alice")), token)).wait() == "rate"


def test_a_process_that_was_open_before_knows_what_another_was_answered(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    with lab.open(token) as one, lab.open(token) as other:
        fail(one, "alice", 1)
        fail(other, "alice", 4)
        assert why(one, ask("alice")) == "rate"


def test_many_threads_at_once_get_no_more_answers(service: Vault) -> None:
    outcomes: list[bool] = []

    def guess() -> None:
        for _ in range(4):
            try:
                matches(service, "alice", "a stranger")
            except Denied:
                outcomes.append(False)
            else:
                outcomes.append(True)

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(outcomes), sum(outcomes)) == (32, 5)


def test_many_processes_at_once_get_no_more_answers(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)

    def guess(vault: Vault) -> int:
        answers = 0
        for _ in range(4):
            with contextlib.suppress(Denied):
                matches(vault, "alice", "a stranger")
                answers += 1
        return answers

    running = [lab.fork(lambda: lab.do(guess, token)) for _ in range(3)]
    assert sum(each.wait() for each in running) == 5


def test_a_renewed_grant_resets_nothing(lab: Lab, service: Vault) -> None:
    fail(service, "alice", 5)
    longer = lab.consent(*lab.enrolment("alice").consent.scopes, days=40)
    lab.do(lambda vault: vault.renew("alice", longer))
    assert why(service, ask("alice")) == "rate"


def test_denials_in_between_reset_nothing_and_prolong_nothing(lab: Lab, service: Vault) -> None:
    fail(service, "alice", 5)
    for _ in range(10):
        assert why(service, ask("alice", region="FR")) == "region"
        assert why(service, ask("nobody")) == "subject_unknown"
    lab.clock.ms += 30_000
    assert why(service, ask("alice")) == "ok"


def test_two_tokens_are_two_and_an_operator_is_not_braked(lab: Lab, service: Vault) -> None:
    fail(service, "alice", 5)
    assert lab.do(lambda vault: why(vault, ask("alice")), lab.add_principal(Role.SERVICE)) == "ok"
    with lab.open() as vault:
        fail(vault, "alice", 20)


def test_answers_about_a_person_end_for_the_day(lab: Lab) -> None:
    token = lab.add_principal(Role.SERVICE)
    lab.do(lambda vault: vault.change_settings(matching=["asks=3", "searches=2"]))
    with lab.open(token) as vault:
        assert [why(vault, ask("alice")) for _ in range(4)] == ["ok", "ok", "ok", "rate"]
        assert why(vault, ask("bob")) == "ok"
        assert [why(vault, search()) for _ in range(3)] == ["ok", "ok", "rate"]
    with lab.open(token) as vault:
        assert why(vault, ask("alice")) == why(vault, search()) == "rate"
        lab.clock.ms += DAY
        assert why(vault, ask("alice")) == why(vault, search()) == "ok"


def test_limits_that_are_none_are_refused_with_nothing_changed(lab: Lab) -> None:
    with lab.open() as vault:
        for word in ("top=0", "scores=1", "asks=-1", "pause_s=yes", "thresholds=x", "top"):
            with pytest.raises(UsageError):
                vault.change_settings(matching=[word])
        assert log_entries(vault)[-1]["type"] == "granted"


def test_the_calibrated_limits_are_those_of_the_packaged_thresholds() -> None:
    for model_id, limits in CALIBRATED.items():
        name, version = model_id.split("/")
        model = Model(name, version, 128, "l2" if name.startswith("dlib") else "cosine")
        assert default_threshold(model).limits == limits


# What remains, measured: the numbers of docs/THREATS.md

Oracle = Callable[[Floats], bool]


def rebuilt(points: list[Floats], distances: list[float]) -> Floats:
    """The one place that has these distances to these points: differences of squares are linear in it."""
    at, far = np.array(points, np.float64), np.array(distances, np.float64)
    squares = (at**2).sum(axis=1) - far**2
    found = np.linalg.lstsq(2 * (at[1:] - at[0]), squares[1:] - squares[0], rcond=None)[0]
    return np.asarray(found, np.float32)


def walked(matched: Oracle, start: Floats, bits: int, limit: float) -> Floats:
    """Rebuild from answers alone: from a probe that matches, find the border in many directions."""
    rng, border = np.random.default_rng(5), []
    for _ in range(len(start) + 1):
        way = rng.normal(size=len(start)).astype(np.float32)
        way /= np.linalg.norm(way)
        low, high = 0.0, 2.2 * limit
        for _ in range(bits):
            middle = (low + high) / 2
            inside = matched(start + np.float32(middle) * way)
            low, high = (middle, high) if inside else (low, middle)
        border.append(start + np.float32((low + high) / 2) * way)
    return rebuilt(border, [limit] * len(border))


def near(name: str, dimension: int) -> Floats:
    """Another photograph of a person: 0.35 away."""
    away = np.random.default_rng(6).normal(size=dimension).astype(np.float32)
    return np.asarray(face(name, dimension) + 0.35 * away / np.linalg.norm(away), np.float32)


def test_a_walk_along_the_border_takes_a_day_for_each_hundred_answers(lab: Lab, service: Vault) -> None:
    """32 dimensions, 14 bits: 462 answers. 128 dimensions take four times as many."""
    answers, began, start = 0, lab.clock.ms, near("alice", DIMENSION)

    def asked(probe: Floats) -> bool:
        nonlocal answers
        while True:
            try:
                matched = service.verify("alice", probe, model=MODEL, threshold=THRESHOLD).match
            except Denied:
                lab.clock.ms += HOUR
            else:
                answers += 1
                return matched

    found = walked(asked, start, 14, THRESHOLD.value)
    assert answers == (DIMENSION + 1) * 14
    assert np.linalg.norm(found - face("alice")) < 0.05
    assert (lab.clock.ms - began) // HOUR > 24 * (answers // 100 - 1)


def test_what_answers_and_scores_are_worth_at_128_dimensions() -> None:
    template, start, calls = face("alice", 128), near("alice", 128), 0

    def matched(probe: Floats) -> bool:
        nonlocal calls
        calls += 1
        return float(np.linalg.norm(probe - template)) <= LIMIT

    found = walked(matched, start, 14, LIMIT)
    assert calls == 1_806
    assert np.linalg.norm(found - template) < 0.05

    points = [np.zeros(128, np.float32), *np.eye(128, dtype=np.float32)]
    exact = [float(np.linalg.norm(point - template)) for point in points]
    assert np.linalg.norm(rebuilt(points, exact) - template) < 1e-4
    rounded = float(np.linalg.norm(rebuilt(points, [score(each) for each in exact]) - template))
    assert 0.01 < rounded < 0.1  # 129 scores in steps of 0.01: well within every threshold
