"""What a process keeps in memory: its pages are read from outside, as a debugger would."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from facekeep.formats.nodes import CHILDREN_LEN, Node
from facekeep.vault import Scope
from facekeep.wiping import wipe, wipe_last
from vaultlab import IDENTIFY, VERIFY, Embedding, Lab, core, face, matches, slots, threshold

SERVICE = """
import sys
from facekeep.vault import Existing
from vaultlab import *
from pathlib import Path

lab = Lab(Path(sys.argv[1]), token=sys.argv[2])
vault = Vault.open(lab.path, token=lab.token, clock=lab.clock)
gallery = None
def say(word):
    print(word, flush=True)
say("open")
for line in sys.stdin:
    word = line.strip()
    if word == "verify":
        matches(vault, "alice", "probe")
    elif word == "refuse":
        other = Model("raw:other", "1", DIMENSION, "l2")
        try:
            vault.verify("alice", face("probe"), model=other, threshold=threshold(other))
        except Exception as error:
            assert str(error) == "denied"
        else:
            raise AssertionError
    elif word == "gallery":
        gallery = vault.gallery(model=MODEL)
        gallery.search(face("probe"), THRESHOLD, 1)
    elif word == "add":
        more = Enrolment("alice", face("probe")[None], MODEL, lab.consent(VERIFY))
        vault.enroll_many([more], existing="add")
    elif word == "again":
        vault.enroll_many([more], existing="add")
    elif word == "renew":
        vault.renew("alice", lab.consent(VERIFY))
    elif word == "close":
        if gallery is not None:
            gallery.close()
        vault.close()
    say(word)
"""


class Service:
    """Another process that has the vault open, and does what it is told."""

    def __init__(self, lab: Lab) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(lab.base), lab.token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        self._answer("open")

    def do(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        self._answer(word)

    def _answer(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def has(self, *needles: bytes, locked: bool = True) -> list[int]:
        """Which of the needles stand in pages that it can write; with or without locked ones."""
        found: set[int] = set()
        with Path(f"/proc/{self._process.pid}/mem").open("rb", buffering=0) as memory:
            for low, high in self._regions(locked=locked):
                try:
                    memory.seek(low)
                    content = memory.read(high - low)
                except OSError:
                    continue
                found.update(at for at, each in enumerate(needles) if each in content)
        return sorted(found)

    def _regions(self, *, locked: bool) -> Iterator[tuple[int, int]]:
        region, writable = (0, 0), False
        for line in Path(f"/proc/{self._process.pid}/smaps").read_text("ascii").splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (....)", line)
            if match is not None:
                region, writable = (int(match[1], 16), int(match[2], 16)), "rw" in match[3]
            elif line.startswith("VmFlags") and writable and (locked or " dd" not in line):
                yield region


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice", "bob")
    lab.do(lambda vault: vault.change_settings(thresholds=[threshold(value=2.0)]))  # anybody may be added
    return lab


@pytest.fixture
def service(lab: Lab) -> Iterator[Service]:
    service = Service(lab)
    yield service
    service.end()


def pieces(values: npt.NDArray[np.floating]) -> list[bytes]:
    """A vector in single and in double precision, in pieces: part of a freed block may be written over."""
    made = []
    for kind in ("<f4", "<f8"):
        raw = np.asarray(values, kind).tobytes()
        made += [raw[at : at + 32] for at in range(0, len(raw), 32)]
    return made


def secrets(template: Embedding, probe: Embedding) -> list[bytes]:
    """A template, and what is computed on the way to its distance to a probe."""
    wide = template.astype(np.float64), probe.astype(np.float64)
    mean = np.asarray((wide[0] + wide[1]) / 2, np.float32)
    vectors: Sequence[npt.NDArray[np.floating]] = (
        template,
        template - probe,
        probe - template,
        (template - probe) ** 2,
        mean,
        mean - probe,
    )
    return [piece for each in vectors for piece in pieces(each)]


@pytest.mark.parametrize("word", ["verify", "refuse", "add", "renew"])
def test_no_template_and_no_difference_is_left_in_memory(service: Service, word: str) -> None:
    service.do(word)
    if word == "add":
        service.do("verify")
        service.do("again")
    assert service.has(*secrets(face("alice"), face("probe"))) == []


def test_a_gallery_has_templates_in_locked_memory_alone(service: Service) -> None:
    service.do("gallery")
    needles = secrets(face("alice"), face("probe"))
    assert service.has(*needles) == list(range(len(pieces(face("alice"))) // 3)), (
        "the scan sees what is there"
    )
    assert service.has(*needles, locked=False) == []
    service.do("close")
    assert service.has(*needles) == []


def _keys(lab: Lab, name: str, scopes: Sequence[Scope] = (VERIFY, IDENTIFY)) -> list[bytes]:
    """All that leads to a person's grants: the root, node keys, slot keys, the keys of the rows."""
    with lab.open() as vault:
        opened = core(vault)
        view = opened.view()
        found = [each.root for each in opened.providers[0].candidates()]
        for slot in (slot for scope, slot in slots(vault, name).items() if scope in scopes):
            branch = slot >> 21
            key = opened.slot_key(view, slot)
            row = opened.data.by_slots([slot])[0]
            found += [key, opened.sealer.row_key(opened.slot_key(view, slot), row)]
            node = view.tree.root_node.node
            position = next(at for at, each, _ in view.tree.branches() if each == branch)
            found.append(node.child(position))
            for level in (1, 2):
                inner = view.tree.node(branch, level, 0)
                assert inner is not None
                found.append(inner.child(0))
        return [bytes(bytearray(each)) for each in found]


@pytest.mark.parametrize(
    "words", [(), ("verify",), ("refuse",), ("gallery",), ("verify", "gallery", "verify")]
)
def test_an_idle_process_forgets_what_another_one_destroyed(
    lab: Lab, service: Service, words: tuple[str, ...]
) -> None:
    for word in words:
        service.do(word)
    keys = _keys(lab, "alice")
    if words:
        assert service.has(*keys), "the scan sees what is there"
    lab.do(lambda vault: vault.shred("alice"))
    deadline = time.monotonic() + 120
    while (left := service.has(*keys)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def test_a_process_forgets_what_it_destroyed_itself(lab: Lab, service: Service) -> None:
    """A renewal destroys the grant of before."""
    service.do("verify")
    keys = _keys(lab, "alice", (VERIFY,))
    service.do("renew")
    deadline = time.monotonic() + 120
    while (left := service.has(*keys)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def test_an_idle_vault_drops_the_tree_of_before(lab: Lab) -> None:
    """Without a gallery and without a call; also where no holder is within reach."""
    for reachable in (True, False):
        lab.enrol("carol")
        with lab.open() as vault:
            assert matches(vault, "carol")
            opened = core(vault)
            old = opened._tree
            aside = lab.root.with_suffix(".aside")
            _shred_elsewhere(lab, "carol")
            if not reachable:
                lab.root.rename(aside)
            deadline = time.monotonic() + 120
            while opened._tree is old and time.monotonic() < deadline:
                time.sleep(0.05)
            assert opened._tree is not old
            assert not reachable or opened._tree.epoch > old.epoch
            if not reachable:
                aside.rename(lab.root)
            assert matches(vault, "bob")


def _shred_elsewhere(lab: Lab, name: str) -> None:
    script = (
        "import sys; from vaultlab import *; from pathlib import Path\n"
        "lab = Lab(Path(sys.argv[1]), token=sys.argv[2])\n"
        "lab.do(lambda vault: vault.shred(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", script, str(lab.base), lab.token, name]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)


def test_a_closed_vault_has_no_thread(lab: Lab) -> None:
    with lab.open() as vault:
        thread = core(vault).watcher._thread
        assert thread.daemon
        assert thread.is_alive()
    assert not thread.is_alive()


def test_a_vault_that_nobody_keeps_ends_its_thread(lab: Lab) -> None:
    with lab.open() as vault:
        opened = core(vault)
        thread = opened.watcher._thread
    del opened
    gc.collect()
    assert not thread.is_alive()


def test_a_node_zeroes_its_keys_with_the_last_who_has_them() -> None:
    children = bytes(bytearray(range(256)) * 15)
    assert len(children) == CHILDREN_LEN
    node = Node(children)
    del node
    assert children[1] == 1, "somebody still has them"
    whole = bytearray(range(256)) * 15
    node = Node(bytes(whole))
    held = memoryview(node.children)
    del node
    assert held[1] == 1


def test_bytes_are_wiped_in_place() -> None:
    value = bytes(bytearray(b"a key of somebody who was erased"))
    wipe(value)
    assert value == bytes(32)
    wipe(b"")
    wipe(b"a"[:1])
    assert bytes((97,)) == b"a"

    class Owner:
        key = b""

    owner = Owner()
    owner.key = bytes(bytearray(b"another key of somebody"))
    other = owner.key
    wipe_last(owner, "key")
    assert other.startswith(b"another")
    del other
    wipe_last(owner, "key")
    assert owner.key == bytes(23)
