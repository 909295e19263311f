"""Somebody with a service's token says what the model of an id is: its metric, its dimension."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.audit.replay import replay
from facekeep.errors import Denied, UsageError
from facekeep.formats.entries import encode
from facekeep.formats.terms import Terms
from facekeep.matching.model import Floats, Model
from facekeep.matching.threshold import default_threshold
from facekeep.vault import Enrolment, Existing, Role, Threshold, Vault
from vaultlab import DIMENSION, IDENTIFY, MODEL, THRESHOLD, VERIFY, Lab, core, face, log_entries, threshold

COSINE = replace(MODEL, metric="cosine")
HALF = replace(MODEL, dimension=DIMENSION // 2)
DLIB = Model("dlib-resnet", "1", 128, "l2")
ANGLES = Model("raw:angles", "1", DIMENSION, "cosine")


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


def why(vault: Vault, ask: Callable[[], object]) -> str:
    """Reason in the log of the one decision that an ask came to."""
    before = core(vault).log.head().size
    with contextlib.suppress(Denied):
        ask()
    assert core(vault).log.head().size == before + 1
    return str(core(vault).log.entry(before)["reason"])


def enrol(vault: Vault, lab: Lab, name: str, model: Model, probe: Floats | None = None) -> None:
    """Enrol somebody for both scopes, with a model."""
    array = face(name, model.dimension) if probe is None else probe
    vault.enroll(name, embeddings=array, model=model, consent=lab.consent(VERIFY, IDENTIFY))


# The metric


def test_a_calibrated_model_is_what_it_was_calibrated_as() -> None:
    with pytest.raises(UsageError, match="128 dimensions and is compared by l2"):
        replace(DLIB, metric="cosine")
    with pytest.raises(UsageError, match="128 dimensions and is compared by l2"):
        replace(DLIB, dimension=64)
    with pytest.raises(UsageError, match="compared by l2"):
        replace(default_threshold(DLIB), metric="cosine")


@pytest.mark.parametrize("own", [THRESHOLD, threshold(COSINE)])
def test_another_metric_under_the_id_of_the_registered_one(service: Vault, own: Threshold) -> None:
    """Promise 5: what was enrolled is compared as it was enrolled, whoever asks."""
    if own.metric == "l2":
        with pytest.raises(UsageError, match="another model"):
            service.verify("alice", face("dora"), model=COSINE, threshold=own)
        with pytest.raises(UsageError, match="another model"):
            service.identify(face("dora"), model=COSINE, threshold=own)
        with service.gallery(model=COSINE) as gallery, pytest.raises(UsageError, match="another model"):
            gallery.search(face("dora"), own, 1)
        return
    assert (
        why(service, lambda: service.verify("alice", face("alice"), model=COSINE, threshold=own)) == "model"
    )
    assert why(service, lambda: service.identify(face("alice"), model=COSINE, threshold=own)) == "model"
    assert why(service, lambda: service.identify(face("alice"), model=MODEL)) == "ok"


def test_an_operator_has_no_other_metric_either(lab: Lab) -> None:
    with lab.open() as vault:
        own = threshold(COSINE)
        assert why(vault, lambda: vault.verify("bob", face("bob"), model=COSINE, threshold=own)) == "model"
        assert why(vault, lambda: vault.identify(face("bob"), model=COSINE, threshold=own)) == "model"
        wide = threshold(value=2.0)
        assert vault.verify("bob", face("alice"), model=MODEL, threshold=wide).match


def test_grants_of_another_metric_than_the_limits_were_measured_with(lab: Lab) -> None:
    """An operator registers a distance for a model whose templates are compared by angles."""
    token = lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        enrol(vault, lab, "dora", ANGLES)
        vault.change_settings(thresholds=[replace(threshold(ANGLES), metric="l2")])
    with lab.open(token) as vault:
        own = threshold(ANGLES)
        assert why(vault, lambda: vault.verify("dora", face("dora"), model=ANGLES, threshold=own)) == "policy"
        assert why(vault, lambda: vault.identify(face("dora"), model=ANGLES, threshold=own)) == "policy"
    with lab.open() as vault:
        assert vault.verify("dora", face("dora"), model=ANGLES, threshold=own).match
        vault.change_settings(thresholds=[own])
    with lab.open(token) as vault:
        assert vault.verify("dora", face("dora"), model=ANGLES).match
        assert [each.subject for each in vault.identify(face("dora"), model=ANGLES).candidates] == ["dora"]


def test_limits_of_one_model_are_of_one_metric(lab: Lab) -> None:
    with lab.open() as vault:
        with pytest.raises(UsageError, match="metric"):
            vault.change_settings(search_thresholds=[threshold(COSINE)])
        assert vault.settings.matching.search_thresholds == ()


# The dimension


def test_another_dimension_poisons_no_log(service: Vault) -> None:
    """A search among nobody is no answer: the auditor reads the set by the model's id."""
    probe, own = face("alice", HALF.dimension), threshold(HALF)
    assert why(service, lambda: service.verify("alice", probe, model=HALF, threshold=own)) == "model"
    assert why(service, lambda: service.identify(probe, model=HALF, threshold=own)) == "model"
    assert why(service, lambda: service.identify(face("alice"), model=MODEL)) == "ok"


def test_a_gallery_opened_for_another_dimension_is_nobody_elses(lab: Lab) -> None:
    with lab.open() as vault:
        for _ in range(2):
            with pytest.raises(Denied):
                vault.identify(face("alice", HALF.dimension), model=HALF, threshold=threshold(HALF))
            assert vault.identify(face("alice"), model=MODEL).candidates[0].subject == "alice"


def test_a_search_of_an_id_that_nobody_has_any_more(lab: Lab) -> None:
    """What is shredded no longer says what its model is."""
    with lab.open() as vault:
        enrol(vault, lab, "dora", ANGLES)
        other = replace(ANGLES, dimension=DIMENSION // 2)
        probe, own = face("dora", other.dimension), threshold(other)
        with vault.gallery(model=other) as gallery:
            assert why(vault, lambda: gallery.search(probe, own, 1)) == "model"
            vault.shred("dora")
            assert gallery.search(probe, own, 1).compared == 0
            enrol(vault, lab, "dora", other)
            assert gallery.search(probe, own, 1).candidates[0].subject == "dora"
        assert not replay(map(encode, log_entries(vault))).notes


# Probes and thresholds that a gallery is given past the vault


def test_a_probe_of_next_to_no_length_matches_nobody(lab: Lab) -> None:
    """Its square vanishes in float32: divided by it, every second stranger is endlessly near."""
    token = lab.add_principal(Role.SERVICE)
    with lab.open() as vault:
        enrol(vault, lab, "dora", ANGLES)
        vault.change_settings(thresholds=[threshold(ANGLES)])
    with lab.open(token) as vault, vault.gallery(model=ANGLES) as gallery:
        strangers = [face(str(number)) * np.float32(1e-25) for number in range(8)]
        wrong: list[Any] = [
            *strangers,
            np.full(DIMENSION, np.nan, np.float32),
            face("dora") * np.float32(1e30),
        ]
        for probe in (*wrong, face("dora")[:-1], face("dora")[None]):
            with pytest.raises(UsageError):
                gallery.search(probe, threshold(ANGLES), 5)
        assert [hit.subject for hit in gallery.search(face("dora"), threshold(ANGLES), 5).candidates] == [
            "dora"
        ]


def test_a_threshold_of_another_model_at_a_gallery(service: Vault) -> None:
    with service.gallery(model=MODEL) as gallery:
        for own in (threshold(ANGLES), threshold(COSINE), default_threshold(DLIB)):
            with pytest.raises(UsageError, match="another model"):
                gallery.search(face("alice"), own, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_limit_that_is_no_distance(value: float) -> None:
    with pytest.raises(UsageError):
        threshold(value=value)
    with pytest.raises(UsageError):
        replace(THRESHOLD, mean_value=value)


# Enrolment


@pytest.mark.parametrize("existing", list(Existing))
@pytest.mark.parametrize("model", [COSINE, HALF])
def test_nobody_is_enrolled_under_an_id_that_is_another_model(
    lab: Lab, model: Model, existing: Existing
) -> None:
    with lab.open() as vault:
        before = core(vault).log.head().size
        for name in ("alice", "dora"):
            one = Enrolment(name, face(name, model.dimension)[None], model, lab.consent(VERIFY))
            with pytest.raises(UsageError, match="another dimension or metric") as caught:
                vault.enroll_many([one], existing=existing)
            assert "raw:NAME/2" in caught.value.next
        assert core(vault).log.head().size == before


@pytest.mark.parametrize("where", ["slot + 5000", "slot + 1099511627776", "-slot", "slot + 1"])
def test_a_planted_row_says_nothing_of_a_model(lab: Lab, where: str) -> None:
    """Somebody who may write vault.db: no row hides what an id stands for, or claims an id for itself."""
    columns = "grant_id, tag, {model}, terms, commitment, templates, record FROM grants"
    for model in ("model", f"'{ANGLES.id}'"):
        each = columns.format(model=model)
        lab.sql("vault.db", f"INSERT OR IGNORE INTO grants SELECT {where}, {each}")
    with lab.open() as vault:
        with pytest.raises(UsageError, match="another dimension or metric"):
            enrol(vault, lab, "dora", HALF)
        enrol(vault, lab, "dora", ANGLES)
        assert vault.verify("dora", face("dora"), model=ANGLES, threshold=threshold(ANGLES)).match


def test_two_models_of_one_id_in_one_enrolment(lab: Lab) -> None:
    other = replace(ANGLES, dimension=4)
    people = [
        Enrolment(name, face(name, model.dimension)[None], model, lab.consent(VERIFY))
        for name, model in (("dora", ANGLES), ("emil", other))
    ]
    with lab.open() as vault:
        with pytest.raises(UsageError, match="another dimension or metric"):
            vault.enroll_many(people)
        vault.enroll_many(people[:1])
        with pytest.raises(UsageError, match="another dimension or metric"):
            vault.enroll_many(people[1:])


def test_the_first_of_a_model_is_of_the_metric_of_its_limits(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()  # its service's limits are of l2
    with lab.open() as vault, pytest.raises(UsageError, match="another dimension or metric"):
        enrol(vault, lab, "dora", COSINE)


def test_the_metric_stays_through_grant_renewal_and_rotation(lab: Lab) -> None:
    with lab.open() as vault:
        vault.enroll("dora", embeddings=face("dora"), model=ANGLES, consent=lab.consent(VERIFY))
        vault.grant("dora", lab.consent(IDENTIFY))
        vault.renew("dora", lab.consent(VERIFY))
        vault.keys.rotate_templates()
        own = threshold(ANGLES)
        assert vault.verify("dora", face("dora"), model=ANGLES, threshold=own).match
        assert vault.identify(face("dora"), model=ANGLES, threshold=own).candidates[0].subject == "dora"
        announced: list[Any] = [each for each in log_entries(vault) if each["type"] == "grant"]
        grants = [grant for entry in announced for grant in entry["grants"]]
        found = {(grant["model"], Terms.unpack(bytes.fromhex(grant["terms"])).metric) for grant in grants}
        assert found == {(MODEL.id, "l2"), (ANGLES.id, "cosine")}
        assert not replay(map(encode, log_entries(vault))).notes
    lab.clean()
