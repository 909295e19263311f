"""Two people under one id: whoever enrols several photographs enrols one person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cli_help import CONSENT, THRESHOLD, Cli, vector, write_lines
from cli_help import MODEL as CLI_MODEL
from facekeep.errors import NotOnePerson, UsageError
from facekeep.matching.images import ImageInput
from facekeep.matching.model import Model
from facekeep.matching.oneperson import RowLimits, strangers
from facekeep.matching.threshold import default_threshold
from facekeep.operations.granting import _MANY
from facekeep.vault import Enrolment, Vault
from vaultlab import IDENTIFY, MODEL, VERIFY, Embedding, Lab, core, face, log_entries, matches, slots

LIMITS = RowLimits(1.0, 1.2)
DLIB, SFACE = Model("dlib-resnet", "1", 128, "l2"), Model("sface", "2021dec", 128, "cosine")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).create()


def like(name: str, *seeds: int) -> Embedding:
    """Photographs of one person: about 0.28 apart."""
    noise = [np.random.default_rng(seed).normal(size=MODEL.dimension) for seed in seeds]
    return np.asarray([face(name) + 0.2 * each / np.linalg.norm(each) for each in noise], np.float32)


def on_a_line(*places: float) -> npt.NDArray[np.float64]:
    """Table of the distances of points on a line."""
    return np.abs(np.subtract.outer(places, places)).astype(np.float64)


# The rule


@pytest.mark.parametrize(
    ("places", "odd"),
    [
        ((0, 0.9), ()),
        ((0, 1.1), (1,)),
        ((0, 0, 0, 5), (3,)),
        ((5, 0, 0, 0), (0,)),
        ((0, 0, 5, 5), (2, 3)),
        ((0, 5, 0, 9, 0), (1, 3)),
        ((0, 1.15, 0.575), ()),  # the two ends are far apart, but not on average
        (tuple(np.linspace(0, 1.3, 64) ** 0.9), (0,)),
        ((0, *[5.0] * 40), (0,)),
        ((0,) * 64, ()),
    ],
    ids=["near", "two", "last", "first", "halves", "three people", "ends", "chain", "outvoted", "copies"],
)  # fmt: skip
def test_odd_rows_are_found(places: tuple[float, ...], odd: tuple[int, ...]) -> None:
    assert strangers(on_a_line(*places), LIMITS) == odd


def test_copies_of_a_photograph_change_nothing() -> None:
    for copies in (1, 5, 31):
        assert not strangers(on_a_line(*[0] * copies, *[0.99] * copies), LIMITS)
        assert strangers(on_a_line(*[0] * copies, *[1.01] * copies), LIMITS)
        assert strangers(on_a_line(0, *[1.01] * copies), LIMITS) == (0 if copies > 1 else 1,)


@pytest.mark.parametrize(("name", "model"), [("dlib", DLIB), ("sface", SFACE)])
def test_two_people_of_lfw_do_not_both_match(shared_data: Path, name: str, model: Model) -> None:
    data = np.load(shared_data / "embeddings" / "lfw-calibration.npz")
    vectors, person = data[name].astype(np.float64), data[f"{name}_identity"]
    if model.metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owned = [own for who in np.unique(person) if len(own := np.flatnonzero(person == who)) >= 3]
    generator = np.random.default_rng(7)
    threshold = default_threshold(model)
    drawn = 10_000
    for kind in ((1, 1), (2, 1), (2, 2)):
        both = 0
        for _ in range(drawn):
            pair = generator.choice(len(owned), 2, replace=False)
            sets = [generator.permutation(owned[who]) for who in pair]
            rows = vectors[np.concatenate([own[:n] for own, n in zip(sets, kind, strict=True)])]
            if strangers(_apart(rows, rows, model.metric), threshold.row_limits):
                continue
            mean = rows.mean(axis=0)
            fresh = vectors[[own[n] for own, n in zip(sets, kind, strict=True)]]
            both += bool((_apart(mean[None], fresh, model.metric) <= threshold.limit(2)).all())
        assert both / drawn <= 2 * threshold.target_fmr, kind


def _apart(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], metric: str
) -> npt.NDArray[np.float64]:
    if metric == "l2":
        return np.asarray(np.linalg.norm(one[:, None] - other[None], axis=2))
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    return np.asarray(1 - one @ other.T / lengths)


# Every way to enrol several rows


def spoilt(lab: Lab, vault: Vault, way: str) -> object:
    """Enrol bob beside alice under one id."""
    consent = lab.consent(VERIFY)
    rows = np.concatenate([like("alice", 1, 2), like("bob", 3)])
    by_hand = Enrolment("alice", rows, MODEL, consent)
    match way:
        case "embeddings":
            return vault.enroll("alice", embeddings=rows, model=MODEL, consent=consent)
        case "prepare":
            return vault.prepare("alice", embeddings=rows, model=MODEL, consent=consent)
        case "by hand":
            return vault.enroll_many([by_hand])
        case "among others":
            return vault.enroll_many([lab.enrolment("carol"), by_hand, lab.enrolment("dora")])
        case "among many":
            others = [lab.enrolment(f"person {at}") for at in range(_MANY)]
            return vault.enroll_many([*others, by_hand])
        case _:
            return vault.enroll_many([by_hand], existing=way)


@pytest.mark.parametrize(
    "way", ["embeddings", "prepare", "by hand", "among others", "among many", "replace", "add", "skip"]
)
def test_no_way_enrols_two_people_under_one_id(lab: Lab, way: str) -> None:
    with lab.open() as vault:
        with pytest.raises(NotOnePerson, match="row 3 is too unlike row 1 and row 2") as caught:
            spoilt(lab, vault, way)
        assert caught.value.rows == (2,)
        assert caught.value.code == "not_one_person"
        assert "grant" not in {entry["type"] for entry in log_entries(vault)}
        assert not list(vault.subjects())
    lab.clean()


@pytest.mark.parametrize("people", [1, _MANY])
def test_who_is_added_is_compared_with_who_is_there(lab: Lab, people: int) -> None:
    names = [f"person {at}" for at in range(people)]
    lab.enrol(*names, scopes=[VERIFY])
    consent = lab.consent(VERIFY)
    with lab.open() as vault:
        before = slots(vault, names[0])
        added = [Enrolment(name, like(name, 1), MODEL, consent) for name in names[:-1]]
        last = Enrolment(names[-1], like("a stranger", 1), MODEL, consent, ("'b.jpg'",))
        with pytest.raises(
            NotOnePerson, match=r"'b.jpg' is too unlike a photograph enrolled earlier"
        ) as caught:
            vault.enroll_many([*added, last], existing="add")
        assert caught.value.rows == (1,)
        assert slots(vault, names[0]) == before
        assert {grant.images for info in vault.subjects() for grant in info.grants} == {1}
        assert matches(vault, names[-1])
        assert not matches(vault, names[-1], "a stranger")
        assert not core(vault).view().head.operations  # what was begun is undone
        vault.enroll_many([*added, Enrolment(names[-1], like(names[-1], 1), MODEL, consent)], existing="add")
        assert {grant.images for info in vault.subjects() for grant in info.grants} == {2}
    lab.clean()


def test_nobody_is_walked_to_by_additions(lab: Lab) -> None:
    steps = [
        np.asarray(face("alice") * (1 - at) + face("bob") * at, np.float32) for at in np.linspace(0, 1, 20)
    ]
    lab.enrol("alice", scopes=[VERIFY])
    refused = 0
    with lab.open() as vault:
        for step in steps:
            made = Enrolment("alice", step[None], MODEL, lab.consent(VERIFY))
            try:
                vault.enroll_many([made], existing="add")
            except NotOnePerson:
                refused += 1
        assert refused
        assert matches(vault, "alice")
        assert not matches(vault, "alice", "bob")


def test_a_model_without_a_threshold_has_one_row_a_subject(lab: Lab) -> None:
    other = replace(MODEL, version="2")
    with lab.open() as vault:
        consent = lab.consent(VERIFY)
        vault.enroll("alice", embeddings=face("alice"), model=other, consent=consent)
        with pytest.raises(UsageError, match="no threshold is registered for raw:lab/2"):
            vault.enroll("bob", embeddings=like("bob", 1, 2), model=other, consent=consent)
        with pytest.raises(UsageError, match="no threshold is registered"):
            vault.enroll_many([Enrolment("alice", like("alice", 1), other, consent)], existing="add")
        assert [entry["type"] for entry in log_entries(vault)].count("grant") == 1
    lab.clean()


# What the record keeps


def records(vault: Vault) -> list[dict[str, object]]:
    inside = core(vault)
    view = inside.view()
    return [
        dict(inside.sealer.open_record(inside.slot_key(view, row.slot), row)) for row in inside.data.rows()
    ]


def test_the_record_says_how_far_apart_the_rows_lie(lab: Lab) -> None:
    rows = like("alice", 1, 2, 3)
    apart = max(float(np.linalg.norm(one - other)) for one in rows for other in rows)
    from_mean = float(np.linalg.norm(rows - rows.mean(axis=0), axis=1).max())
    limits = {"group_limit_e6": 500_000, "row_limit_e6": 500_000}
    with lab.open() as vault:
        vault.enroll("alice", embeddings=rows, model=MODEL, consent=lab.consent(VERIFY))
        (record,) = records(vault)
        spread = record["spread"]
        assert isinstance(spread, dict)
        assert spread == limits | {
            "mean_e6": pytest.approx(from_mean * 1e6, abs=2), "rows_e6": pytest.approx(apart * 1e6, abs=2),
        }  # fmt: skip
        vault.renew("alice", lab.consent(VERIFY, days=60))
        vault.grant("alice", lab.consent(IDENTIFY))
        assert [each["spread"] for each in records(vault)] == [spread] * 2
        vault.keys.rotate_templates()
        assert [each["spread"] for each in records(vault)] == [spread] * 2
        vault.enroll_many([Enrolment("alice", like("alice", 4), MODEL, lab.consent(VERIFY))], existing="add")
        added = [each["spread"] for each in records(vault) if each["images"] == 4]
        assert added == [limits | {"mean_e6": None, "rows_e6": None}]  # the old rows were sealed then
        vault.enroll("bob", embeddings=face("bob"), model=MODEL, consent=lab.consent(VERIFY))
        assert next(each for each in records(vault) if each["subject"] == "bob").get("spread", 0) == 0
    lab.clean()


# Limits


def test_a_registered_threshold_brings_its_own_limits(lab: Lab) -> None:
    with lab.open() as vault:
        (own,) = [replace(default_threshold(DLIB), value=0.4, mean_value=0.3)]
        rows = np.zeros((2, 128), np.float32)
        rows[:, 0], rows[1, 1] = 1, 0.5

        def enroll(name: str) -> object:
            return vault.enroll(name, embeddings=rows, model=DLIB, consent=lab.consent(VERIFY))

        enroll("by the calibrated limits")
        vault.change_settings(thresholds=[replace(own, rows_value=None)])
        enroll("by the calibrated limits, since it has none")
        vault.change_settings(thresholds=[replace(own, rows_value=0.45)])
        with pytest.raises(NotOnePerson):
            enroll("by its own")


@pytest.mark.parametrize("field", ["rows_value", "rows_fmr", "rows_fnmr"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 2e9])
def test_a_limit_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError):
        replace(default_threshold(DLIB), **{field: value})  # type: ignore[arg-type] # of the field's type


# Photographs, and the command


class Twos:
    """An extractor whose photographs are bytes: the person's name, and a number."""

    model = MODEL

    def extract(self, image: ImageInput) -> Embedding:
        name = Path(str(image)).stem
        return np.asarray(like(name[0], int(name[1:]))[0])


def test_the_odd_photograph_is_named(lab: Lab) -> None:
    vault = Vault.open(lab.path, token=lab.token, extractor=Twos(), clock=lab.clock)
    photographs = ["in/a1.jpg", "in/a2.jpg", "in/b1.jpg", "in/a3.jpg"]
    with vault, pytest.raises(NotOnePerson, match=r"'b1.jpg' is too unlike 'a1.jpg', 'a2.jpg' and 'a3.jpg'"):
        vault.enroll("alice", photographs, consent=lab.consent(VERIFY))


def test_a_bulk_enrolment_goes_on_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    cli.ok("settings", "--threshold", "threshold.json")
    assert THRESHOLD["value"] == 1.0
    ada = vector(0)
    people = [
        {
            "subject": "ada",
            "embedding": [ada.tolist(), (ada + np.float32(0.01)).tolist()],
            "model": CLI_MODEL,
        },
        {"subject": "two", "embedding": [ada.tolist(), vector(1).tolist()], "model": CLI_MODEL},
        {"subject": "bob", "embedding": vector(1).tolist(), "model": CLI_MODEL},
    ]
    write_lines(tmp_path / "people.jsonl", people)
    ran = cli.run("enroll", "--from", "people.jsonl", "--scope", "verify", *CONSENT, "--json")
    assert ran.json["failures"] == [{"item": 2, "code": "not_one_person"}]
    assert set(cli.subjects()) == {"ada", "bob"}


def test_the_command_names_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    cli.ok("settings", "--threshold", "threshold.json")
    np.save("rows.npy", np.stack([vector(0), vector(1), vector(0)]))
    words = ("enroll", "ada", "--embedding", "rows.npy", "--model", CLI_MODEL, "--scope", "verify", *CONSENT)
    assert "row 2 is too unlike row 1 and row 3" in cli.fails("not_one_person", 18, *words)["message"]


# Rows that are none


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_row_that_says_nothing_is_refused(lab: Lab, bad: float) -> None:
    rows = np.concatenate([like("alice", 1, 2), np.full((1, MODEL.dimension), bad, np.float32)])
    with lab.open() as vault, pytest.raises(UsageError, match="not finite, or is all but zero"):
        vault.enroll_many([Enrolment("alice", rows, MODEL, lab.consent(VERIFY))])


def test_rows_of_another_model_are_not_added(lab: Lab) -> None:
    lab.enrol("alice", scopes=[VERIFY])
    other = replace(MODEL, version="2")
    made = Enrolment("alice", like("alice", 1), other, lab.consent(VERIFY))
    with lab.open() as vault, pytest.raises(UsageError, match="another model"):
        vault.enroll_many([made], existing="add")
