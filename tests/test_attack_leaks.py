"""What stands in the files and in messages: no id, no text, no embedding, no token (promise 6)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from facekeep.errors import Denied, FacekeepError
from facekeep.operations import steps
from facekeep.vault import Consent, Role, Scope, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    NOTICE,
    NOW,
    THRESHOLD,
    VERIFY,
    Embedding,
    Lab,
    face,
    identify,
    matches,
    threshold,
)

SUBJECT = "Kaltenbrunner, Ottilie-Ñandú"
OTHER = "subject-0042-of-the-door"
PURPOSE = "entrance to the reading room of the archive"
CONTROLLER = "Stadtarchiv Beispielhausen"
EXPRESSED = "guardian-of-the-subject"
RUN = 3  # floats in a row that count as a run of an embedding


def needles(token: str) -> dict[str, bytes]:
    """What must not be found, under the name it is reported by."""
    texts = {"subject": SUBJECT, "other": OTHER, "purpose": PURPOSE, "controller": CONTROLLER}
    texts |= {"expressed": EXPRESSED, "secret": token.split(".")[2], "label": "door of hall 3"}
    found = {
        f"{name} {code}": text.encode(code) for name, text in texts.items() for code in ("utf-8", "utf-16-le")
    }
    return found | {f"{name} hex": text.encode().hex().encode() for name, text in texts.items()}


def runs(vector: Embedding, stride: int = 1) -> Iterator[bytes]:
    """Every run of consecutive components, as float32 and float64 of both byte orders."""
    for kind in ("<f4", ">f4", "<f8", ">f8"):
        raw = vector.astype(kind).tobytes()
        size = np.dtype(kind).itemsize
        for at in range(0, len(raw) - RUN * size + 1, stride * size):
            yield raw[at : at + RUN * size]


class Search:
    """Looks into every file there is; again only into those that changed."""

    def __init__(self, lab: Lab, vectors: list[Embedding], stride: int = 1) -> None:
        self.lab = lab
        self.runs = [run for vector in vectors for run in runs(vector, stride)]
        self.found: list[str] = []
        self.seen: dict[Path, bytes] = {}

    def look(self, token: str) -> list[str]:
        texts = needles(token)
        for path in self.lab.files():
            raw = path.read_bytes()
            if self.seen.get(path) == raw:
                continue
            self.seen[path] = raw
            self.found += [f"{path.name}: {name}" for name, needle in texts.items() if needle in raw]
            self.found += [f"{path.name}: embedding" for run in self.runs if run in raw]
        return self.found


def leaks(lab: Lab, token: str, vectors: list[Embedding]) -> list[str]:
    return Search(lab, vectors).look(token)


def consent(*scopes: Scope) -> Consent:
    return Consent(
        scopes=scopes,
        notice=NOTICE,
        expires_at_ms=NOW + 10**9,
        purpose=PURPOSE,
        controller=CONTROLLER,
        expressed_by=EXPRESSED,
    )


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.path.mkdir()
    vector = face("x")
    secret = "fkt1.0.secret"
    (lab.path / "a").write_bytes(b"..." + vector.tobytes() + b"...")
    (lab.path / "b").write_text(f"... {SUBJECT} ...", encoding="utf-8")
    (lab.path / "c").write_text(PURPOSE.encode().hex())
    (lab.path / "d").write_bytes(vector[5 : 5 + RUN].astype(">f8").tobytes())
    assert {each.split(":")[0] for each in leaks(lab, secret, [vector])} == {"a", "b", "c", "d"}
    for path in lab.path.iterdir():
        path.unlink()
    assert leaks(lab, secret, [vector]) == []


def test_nothing_readable_stands_in_any_file_at_any_moment(tmp_path: Path) -> None:
    """WAL, shared memory, copies, backup and root file; between the steps and at the end."""
    lab = Lab(tmp_path, copies=True).create()
    one, two = face("one", 128), face("two", 128)
    vectors = [one, two, np.asarray((one + two) / 2, np.float32), face(SUBJECT), face(OTHER)]
    search = Search(lab, vectors, stride=16)

    def look(_step: str) -> None:
        search.look(lab.token)

    model = type(MODEL)("raw:wide", "1", 128, "l2")
    with lab.open() as vault:
        vault.change_settings(thresholds=[threshold(model, 2.0)])
        steps.observe(look)
        try:
            vault.enroll(SUBJECT, embeddings=[one, two], model=model, consent=consent(VERIFY))
            vault.enroll(OTHER, embeddings=face(OTHER), model=MODEL, consent=consent(VERIFY, IDENTIFY))
            assert matches(vault, OTHER)
            assert identify(vault, OTHER) == [OTHER]
            _, token = vault.add_principal("door of hall 3", [Role.SERVICE])
            search.seen.clear()
            search.look(token)
            vault.grant(SUBJECT, consent(Scope.TRAIN))
            vault.renew(OTHER, consent(VERIFY))
            vault.backup(lab.base / "backup")
            vault.withdraw(OTHER, [VERIFY])
            vault.shred(SUBJECT)
            vault.restore(lab.base / "backup")
            assert leaks(lab, token, vectors) == []  # while it is open: in the WAL, too
        finally:
            steps._observers.remove(look)
    assert leaks(lab, lab.token, vectors) == []
    assert {path.name for path in lab.files()} >= {"vault.db", "keys.db", "log.db", "backup", "root.key"}
    assert search.found == []


def test_a_killed_enrolment_leaves_nothing_readable(tmp_path: Path) -> None:
    lab = Lab(tmp_path, copies=True).create()

    def enrol(vault: Vault) -> object:
        return vault.enroll(SUBJECT, embeddings=face("one"), model=MODEL, consent=consent(VERIFY, IDENTIFY))

    start = lab.save("start")
    for step, occurrence in lab.steps_of(enrol):
        lab.put_back(start)
        lab.crash(enrol, step, occurrence)
        assert leaks(lab, lab.token, [face("one")]) == []


def test_messages_never_tell_a_subject_or_a_secret(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    said: list[str] = []
    with lab.open() as vault:
        vault.enroll(OTHER, embeddings=face(OTHER), model=MODEL, consent=consent(VERIFY))
        probe = face(OTHER)
        wrong: list[Callable[[], object]] = [
            lambda: vault.enroll(OTHER, embeddings=probe, model=MODEL, consent=consent(VERIFY)),
            lambda: vault.enroll(OTHER, embeddings=probe, model=MODEL, consent=consent()),
            lambda: vault.enroll(SUBJECT + "\n", embeddings=probe, model=MODEL, consent=consent(VERIFY)),
            lambda: vault.enroll(OTHER, embeddings=probe[:5], model=MODEL, consent=consent(IDENTIFY)),
            lambda: vault.shred(SUBJECT),
            lambda: vault.withdraw(SUBJECT, [VERIFY]),
            lambda: vault.withdraw(OTHER, [Scope.TRAIN]),
            lambda: vault.grant(SUBJECT, consent(IDENTIFY)),
            lambda: vault.renew(OTHER, consent(IDENTIFY)),
            lambda: vault.verify(SUBJECT, probe, model=MODEL, threshold=THRESHOLD),
            lambda: vault.verify(OTHER, probe, model=MODEL, threshold=THRESHOLD, region="JP"),
            lambda: Vault.open(lab.path, token=lab.token + "x", clock=lab.clock),
            lambda: Vault.open(lab.path, token=f"fkt1.{'0' * 16}.{lab.token.split('.')[2]}", clock=lab.clock),
        ]
        for act in wrong:
            with pytest.raises(FacekeepError) as caught:
                act()
            error = caught.value
            said.append(f"{error} {error.next} {getattr(error, 'decision', '')}")
            said.append(repr(error))
    lab.sql("vault.db", "UPDATE grants SET record = zeroblob(400)")
    with lab.open() as vault:
        for act in (lambda: list(vault.subjects()), lambda: vault.renew(OTHER, consent(VERIFY))):
            with pytest.raises(FacekeepError) as caught:
                act()
            said.append("".join(traceback.format_exception_only(caught.value)))
        said += [f"{finding.message} {finding.next}" for finding in vault.check().findings]
    for text in (SUBJECT, OTHER, PURPOSE, lab.token.split(".")[2]):
        assert not [each for each in said if text in each]
    assert all("\n" not in each.strip() for each in said)


def test_every_denial_looks_the_same_from_outside(tmp_path: Path) -> None:
    lab = Lab(tmp_path).create()
    with lab.open() as vault:
        vault.enroll(OTHER, embeddings=face(OTHER), model=MODEL, consent=consent(IDENTIFY))
        seen = set()
        for name, region in ((OTHER, "DE"), (SUBJECT, "DE"), (OTHER, "JP")):
            with pytest.raises(Denied) as caught:
                vault.verify(name, face(name), model=MODEL, threshold=THRESHOLD, region=region)
            seen.add((str(caught.value), caught.value.next, caught.value.exit_code))
        assert len(seen) == 1
