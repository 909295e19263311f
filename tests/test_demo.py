"""The demo: every step as told on public portraits, and a search that can find what it looks for."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekeep.demo import photos
from facekeep.demo.photos import Person, people_of, portraits
from facekeep.demo.search import needles, search
from facekeep.demo.story import Story
from facekeep.errors import ImageError, MissingDependency, StoreError, UsageError, VaultExists
from facekeep.matching.images import ImageInput
from facekeep.matching.model import Floats, Model

FACEKEEP = str(Path(sys.executable).with_name("facekeep"))


class Brightness:
    """An extractor that tells two coloured squares apart, however they are cropped: for speed."""

    model = Model("dlib-resnet", "1", 128, "l2")

    def extract(self, image: ImageInput) -> Floats:
        assert isinstance(image, Path)
        from PIL import Image  # noqa: PLC0415 - an optional package

        with Image.open(image) as opened:
            red, _, blue = np.asarray(opened.convert("RGB"), float).mean(axis=(0, 1))
        rows = np.random.default_rng(5).normal(size=(2, 128))
        mixed = red * rows[0] + blue * rows[1]
        return np.asarray(mixed / np.linalg.norm(mixed), np.float32)


@pytest.fixture
def squares(tmp_path: Path) -> list[Person]:
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(1).integers(0, 40, (200, 200, 3), np.uint8)
    people = []
    for name, colour in (("red-square", (180, 0, 0)), ("blue-square", (0, 0, 180))):
        file = tmp_path / f"{name}.png"
        image.fromarray(noise + np.array(colour, np.uint8)).save(file)
        people.append(Person(name, (file,)))
    return people


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return where the command made its demo on the portraits, and what it told."""
    pytest.importorskip("dlib")
    home, user = tmp_path_factory.mktemp("demo") / "kept", tmp_path_factory.mktemp("user")
    environment = {**os.environ, "HOME": str(user), "XDG_CONFIG_HOME": str(user), "XDG_DATA_HOME": str(user)}
    ran = subprocess.run(
        [FACEKEEP, "demo", "--keep", str(home), "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(user.iterdir()) == []
    found: dict[str, Any] = json.loads(ran.stdout)
    return home, found


def test_everything_comes_as_told_on_the_portraits(told: tuple[Path, dict[str, Any]]) -> None:
    _, found = told
    assert found["ok"] is True
    assert [step["step"] for step in found["steps"]] == list(range(1, 17))
    assert all(step["ok"] for step in found["steps"])
    assert found["seconds"] > 0


def test_the_vault_is_left_for_the_user(told: tuple[Path, dict[str, Any]]) -> None:
    home, found = told
    environment = {
        **os.environ,
        "FACEKEEP_VAULT": found["vault"],
        "FACEKEEP_TOKEN_FILE": str(home / "demo.token"),
    }
    said = {}
    for word in ("check", "status", "subjects"):
        ran = subprocess.run([FACEKEEP, word], capture_output=True, text=True, env=environment, check=False)
        assert (ran.returncode, ran.stderr.count("warning")) == (0, 0)
        said[word] = ran.stdout
    assert said["subjects"].startswith("eileen-collins\tverify\tlive")
    photo = str(portraits()[1].photos[0])
    verify = [FACEKEEP, "verify", "eileen-collins", photo]
    assert subprocess.run(verify, capture_output=True, env=environment, check=False).returncode == 0


def test_everything_stands_in_one_private_directory(told: tuple[Path, dict[str, Any]]) -> None:
    home, _ = told
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {each.name for each in home.iterdir()} == {
        "demo.vault", "demo.root", "demo.token", "copies", "notice.txt", "yesterday.fkb"
    }  # fmt: skip


def test_in_words(squares: list[Person], tmp_path: Path) -> None:
    story = Story(squares, tmp_path / "kept", Brightness())
    steps = list(story.run())
    assert [step for step in steps if not step.ok] == []
    assert [step.number for step in steps] == list(range(1, 17))


def test_a_step_that_does_not_come_as_told_is_seen(squares: list[Person], tmp_path: Path) -> None:
    same = Person("red-again", squares[0].photos)
    steps = list(Story([squares[0], same], tmp_path / "kept", Brightness()).run())
    assert [step.number for step in steps if not step.ok] == [4, 6]


def test_the_exit_status_says_so_too(squares: list[Person], tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    folder = tmp_path / "photos"
    folder.mkdir()
    portrait = portraits()[0].photos[0]
    shutil.copy(portrait, folder / "a.jpg")
    shutil.copy(portrait, folder / "b.jpg")
    assert squares
    words = [FACEKEEP, "demo", "--photos", str(folder), "--keep", str(tmp_path / "kept")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert " 4. verify person-1 by a photograph of person-2\n    NOT AS TOLD: match" in ran.stdout
    assert "something did NOT come as told" in ran.stderr


def test_a_directory_in_use_is_not_touched(squares: list[Person], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("mine")
    with pytest.raises(VaultExists):
        next(Story(squares, tmp_path / "kept", Brightness()).run())
    with pytest.raises(StoreError):
        next(Story(squares, tmp_path / "kept" / "mine", Brightness()).run())


# Photographs


def test_people_of_a_folder(tmp_path: Path) -> None:
    for name in ("zoe", "ada", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.JPG").write_bytes(b"x")
    (tmp_path / "ada" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    found = people_of(tmp_path)
    assert [(person.subject, person.photos[0].parent.name) for person in found] == [
        ("person-1", "ada"),
        ("person-2", "bob"),
    ]
    assert len(found[0].photos) == 1


def test_a_file_a_person(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "readme.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [person.photos[0].name for person in people_of(tmp_path)] == ["a.jpg", "b.png"]


def test_too_few_people(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer than two"):
        people_of(tmp_path)
    with pytest.raises(StoreError):
        people_of(tmp_path / "nowhere")


def test_portraits_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency) as caught:
        portraits()
    assert "facekeep[demo]" in caught.value.next


def test_what_is_no_photograph(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError):
        photos.changed(tmp_path / "a.jpg", tmp_path / "b.jpg")


# The search


@pytest.fixture
def haystack(tmp_path: Path) -> Path:
    noise = np.random.default_rng(3).bytes(200_000)
    (tmp_path / "hay").write_bytes(noise)
    return tmp_path / "hay"


VECTOR = np.random.default_rng(4).normal(size=128).astype(np.float32)
PHOTO = np.random.default_rng(5).bytes(30_000)
WANTED = needles(["Grace Hopper"], [VECTOR], [PHOTO])


def plant(haystack: Path, needle: bytes, at: int) -> None:
    hay = haystack.read_bytes()
    haystack.write_bytes(hay[:at] + needle + hay[at:])


def test_nothing_is_found_where_nothing_is(haystack: Path) -> None:
    found = search([haystack], WANTED)
    assert (found.nothing, found.files, found.size) == (True, 1, 200_000)
    assert search([], WANTED).nothing


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 777, 200_000])
@pytest.mark.parametrize("form", ["<f4", ">f4", "<f8", ">f8"])
def test_two_floats_anywhere(haystack: Path, form: str, at: int) -> None:
    plant(haystack, VECTOR[40:42].astype(form).tobytes(), at)
    found = search([haystack], WANTED)
    assert (found.texts, found.embeddings, found.photographs) == ([], ["hay"], [])


@pytest.mark.parametrize("at", [0, 3, 12_345])
def test_a_piece_of_a_photograph_anywhere(haystack: Path, at: int) -> None:
    plant(haystack, PHOTO[10_001:10_033], at)
    found = search([haystack], WANTED)
    assert (found.texts, found.embeddings, found.photographs) == ([], [], ["hay"])


@pytest.mark.parametrize(
    "text",
    [
        b"grace hopper",
        b"GRACE HOPPER",
        "Grace Hopper".encode("utf-16-le"),
        b"4772616365",
        b"R3JhY2UgSG9wcGVy",
    ],
)
def test_a_name_in_other_spellings(haystack: Path, text: bytes) -> None:
    whole = b"Grace Hopper".hex().encode() if text == b"4772616365" else text
    plant(haystack, whole, 50)
    assert search([haystack], WANTED).texts == ["hay"]


def test_empty_space_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(bytes(100_000))
    vector = np.zeros(128, np.float32)
    wanted = needles(["x" * 9], [vector], [bytes(10_000) + PHOTO])
    assert search([tmp_path / "empty"], wanted).nothing
