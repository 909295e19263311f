from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats import nodes
from facekeep.formats.nodes import EMPTY_PIN, FULL_MAP, Kind, Node, Pin, RootNode

LIVING = bytes([1]) * nodes.CHILDREN_LEN
VAULT = bytes(range(16))


def with_dead(*numbers: int, stored: int = 0) -> Node:
    children = bytearray(LIVING)
    dead = 0
    for number in numbers:
        children[32 * number : 32 * number + 32] = bytes(32)
        dead |= nodes.bit(number)
    return Node(bytes(children), stored, dead)


def root_node(**changes: object) -> RootNode:
    positions = ((0, Kind.SYSTEM), (1, Kind.VERIFY), *[(0, Kind.FREE)] * 118)
    base = RootNode(Node(LIVING, nodes.bit(1)), positions, 2, 1, EMPTY_PIN, 5)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_lengths_of_the_specification() -> None:
    assert nodes.NODE_LEN == 3870
    assert nodes.ROOT_LEN == 3840 + 15 + 15 + 120 * 5 + 4 + 8 + 8 + 32 + 32 + 8


def test_map_bits_stand_as_the_specification_says() -> None:
    encoded = nodes.encode_node(with_dead(0, 9, 119, stored=nodes.bit(7)), 2)
    stored, dead = encoded[3840:3855], encoded[3855:]
    assert stored == bytes([1]) + bytes(14)
    assert dead == bytes([0x80, 0x40]) + bytes(12) + bytes([1])


@given(st.sets(st.integers(0, 119), max_size=119), st.sets(st.integers(0, 119)), st.integers(1, 2))
def test_nodes_survive_a_round_trip(dead: set[int], stored: set[int], level: int) -> None:
    node = with_dead(*dead, stored=sum(nodes.bit(i) for i in stored - dead))
    decoded = nodes.decode_node(nodes.encode_node(node, level), level)
    assert decoded == node
    assert {i for i in range(120) if decoded.is_dead(i)} == dead
    assert {i for i in range(120) if decoded.is_stored(i)} == stored - dead
    assert all((decoded.child(i) == bytes(32)) == (i in dead) for i in range(120))


def test_zero_bytes_across_two_keys_are_no_zero_key() -> None:
    across = bytearray(LIVING)
    across[32 * 5 + 1 : 32 * 6 + 31] = bytes(62)
    node = Node(bytes(across))
    assert nodes.decode_node(nodes.encode_node(node, 3), 3) == node
    with pytest.raises(FormatError, match="zero keys"):
        nodes.encode_node(replace(node, dead=nodes.bit(5)), 3)
    with_one = replace(with_dead(7), children=bytes(across[: 32 * 7]) + with_dead(7).children[32 * 7 :])
    assert nodes.decode_node(nodes.encode_node(with_one, 3), 3) == with_one


@pytest.mark.parametrize(
    ("node", "level"),
    [
        (Node(LIVING, nodes.bit(3), 0), 3),  # a leaf stores no child
        (replace(with_dead(3), stored=nodes.bit(3)), 2),  # stored and dead
        (Node(LIVING, 0, nodes.bit(3)), 2),  # dead with a key left
        (replace(with_dead(3), dead=0), 2),  # a zero key that is not dead
        (with_dead(3), 0),  # the root node has no dead positions
        (Node(bytes(3840), 0, FULL_MAP), 2),  # wholly dead nodes are not stored
        (Node(LIVING[:-1]), 2),
        (Node(LIVING, -1), 2),
        (Node(LIVING, FULL_MAP + 1), 2),
    ],
)
def test_inconsistent_nodes_are_refused(node: Node, level: int) -> None:
    with pytest.raises(FormatError):
        nodes.encode_node(node, level)
    if 0 <= node.stored <= FULL_MAP and len(node.children) == nodes.CHILDREN_LEN:
        raw = node.children + node.stored.to_bytes(15, "big") + node.dead.to_bytes(15, "big")
        with pytest.raises(FormatError):
            nodes.decode_node(raw, level)


@given(st.binary(max_size=200) | st.binary(min_size=3870, max_size=3870))
def test_no_bytes_raise_anything_but_format_error(data: bytes) -> None:
    for decode in (lambda: nodes.decode_node(data, 2), lambda: nodes.decode_root(data)):
        with pytest.raises(FormatError):
            decode()


def test_the_root_node_survives_a_round_trip() -> None:
    root = root_node(pin=Pin(7, b"r" * 32, b"c" * 32), epoch=2**53 - 1, swapped_at_ms=2**53 - 2)
    assert nodes.decode_root(nodes.encode_root(root)) == root


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 0},
        {"epoch": 2**53},
        {"swapped_at_ms": -1},
        {"next_branch": 1},  # branch 1 stands but was never given out
        {"next_branch": 2**32},
        {"positions": ((0, Kind.SYSTEM), (0, Kind.VERIFY), *[(0, Kind.FREE)] * 118)},  # twice
        {"positions": ((0, Kind.SYSTEM), *[(0, Kind.FREE)] * 119)},  # stored bit on a free position
        {"positions": ((0, Kind.SYSTEM), (1, Kind.VERIFY), (1, Kind.FREE), *[(0, Kind.FREE)] * 117)},
        {"positions": ((0, Kind.SYSTEM),)},
        {"pin": Pin(-1, bytes(32), bytes(32))},
        {"pin": Pin(1, bytes(31), bytes(32))},
    ],
)
def test_inconsistent_root_nodes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        nodes.encode_root(root_node(**changes))


def test_unknown_kinds_are_refused() -> None:
    raw = bytearray(nodes.encode_root(root_node()))
    raw[nodes.NODE_LEN + 4] = 7
    with pytest.raises(FormatError, match="kind"):
        nodes.decode_root(bytes(raw))


@given(st.integers(0, nodes.ROOT_LEN * 8 - 1))
def test_a_flipped_bit_in_a_root_node_is_another_value_or_refused(position: int) -> None:
    raw = bytearray(nodes.encode_root(root_node()))
    raw[position // 8] ^= 1 << position % 8
    try:
        decoded = nodes.decode_root(bytes(raw))
    except FormatError:
        return
    assert nodes.encode_root(decoded) == bytes(raw)


def test_associated_data_and_derivation_input_are_the_specified_bytes() -> None:
    place = b"\0\0\0\7" + b"\3" + b"\0\0\1\2"
    assert nodes.node_info(VAULT, 7, 3, 258) == b"facekeep/v1/node\0" + VAULT + place
    aad = b"facekeep/v1/tree-node\0\0\1" + VAULT + place + (9).to_bytes(8, "big")
    assert nodes.node_aad(VAULT, 7, 3, 258, 9) == aad
    mark = nodes.root_fingerprint(VAULT, b"k" * 32)
    assert mark == hashlib.sha256(b"facekeep/v1/root-fingerprint\0" + VAULT + b"k" * 32).digest()
    assert (
        nodes.root_aad(VAULT, 9, mark)
        == b"facekeep/v1/root-node\0\0\1" + VAULT + (9).to_bytes(8, "big") + mark
    )


@pytest.mark.parametrize(
    ("branch", "level", "index"),
    [(-1, 1, 0), (2**32, 1, 0), (0, 0, 0), (0, 4, 0), (0, 1, 1), (0, 2, 120), (0, 3, 14400)],
)
def test_places_outside_the_tree_are_refused(branch: int, level: int, index: int) -> None:
    with pytest.raises(FormatError):
        nodes.node_info(VAULT, branch, level, index)
    with pytest.raises(FormatError):
        nodes.node_aad(VAULT, branch, level, index, 1)
    with pytest.raises(FormatError):
        nodes.row_id(branch, level, index)


@pytest.mark.parametrize("epoch", [0, -1, 2**53])
def test_epochs_out_of_range_are_refused(epoch: int) -> None:
    with pytest.raises(FormatError):
        nodes.root_aad(VAULT, epoch, bytes(32))


def test_row_numbers_never_meet() -> None:
    ids = [nodes.row_id(b, 1, 0, copy) for b in (0, 1) for copy in (0, 1)]
    ids += [nodes.row_id(b, 2, i) for b in (0, 1) for i in range(120)]
    ids += [nodes.row_id(b, 3, i) for b in (0, 1) for i in range(14400)]
    assert len(set(ids)) == len(ids)
    assert nodes.row_id(2**32 - 1, 3, 14399) < 2**63


def test_a_row_span_covers_what_is_below() -> None:
    (branch,) = nodes.row_span(3, 1, 0)
    assert branch == (3 << 15, (4 << 15) - 1)
    own, leaves = nodes.row_span(3, 2, 5)
    assert own == (nodes.row_id(3, 2, 5),) * 2
    assert leaves == (nodes.row_id(3, 3, 600), nodes.row_id(3, 3, 719))
    assert nodes.row_span(3, 3, 600) == ((leaves[0], leaves[0]),)


def test_keys_do_not_show_in_a_repr() -> None:
    assert "x01" not in repr(root_node())
