"""Tiles: C2SP's paths, widths and bundles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats import tiles
from facekeep.formats.tiles import Bundle, Tile


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 0, 1), "tile/1/000.p/1"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(2, 999, 255), "tile/2/999.p/255"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(0, 2**55 - 1), "tile/0/x036/x028/x797/x018/x963/967"),
        (Bundle(0), "tile/entries/000"),
        (Bundle(273, 112), "tile/entries/273.p/112"),
    ],
)
def test_paths(tile: Tile | Bundle, path: str) -> None:
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "tile", "tile/0", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/8/000",
        "tile/-1/000",
        "tile/0/x000/000", "tile/0/001/000", "tile/0/x001/x000", "tile/0/000.p/0", "tile/0/000.p/256",
        "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p", "tile/0/000/p/1", "/tile/0/000", "tile/0/000/",
        "tile/0/000\n", "tile/8/0/000", "tile/data/000", "tile/0/../000", "tile/0/\u0660\u0660\u0660",
        "tile/entries/x1/000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        tiles.parse_path(path)


@pytest.mark.parametrize(("n", "width"), [(-1, 1), (2**63, 1), (0, 0), (0, 257)])
def test_a_tile_out_of_range_has_no_path(n: int, width: int) -> None:
    with pytest.raises(FormatError):
        _ = Tile(0, n, width).path


def test_a_partial_tile_never_feeds_the_level_above() -> None:
    assert set(tiles.tiles_between(0, 255)) == {Tile(0, 0, 255)}
    assert set(tiles.tiles_between(0, 256)) == {Tile(0, 0), Tile(1, 0, 1)}
    assert list(tiles.tiles_between(0, 0)) == []
    assert Tile(2, 0, 1) not in set(tiles.tiles_between(0, 65_535))
    assert Tile(2, 0, 1) in set(tiles.tiles_between(0, 65_536))


def test_the_tiles_of_70000_as_c2sp_counts_them() -> None:
    found = list(tiles.tiles_between(0, 70_000))
    assert [tile for tile in found if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert sum(tile.level == 0 for tile in found) == 274
    assert sum(tile.level == 1 for tile in found) == 2


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_step_by_step_gives_what_one_step_gives(first: int, second: int) -> None:
    old, new = sorted((first, second))
    at_once = set(tiles.tiles_between(0, new))
    by_steps = set(tiles.tiles_between(0, old)) | set(tiles.tiles_between(old, new))
    assert at_once <= by_steps
    assert set(tiles.bundles_between(0, new)) <= {
        *tiles.bundles_between(0, old),
        *tiles.bundles_between(old, new),
    }
    for tile in at_once:
        assert tile.width == tiles.width_at(new, tile.level, tile.n)


def test_no_growth_gives_no_files() -> None:
    assert list(tiles.tiles_between(300, 300)) == []
    assert list(tiles.bundles_between(300, 300)) == []


def test_a_bundle_round_trips_with_empty_and_longest_entries() -> None:
    entries = [b"", b"x", b"y" * 65_535]
    assert tiles.decode_bundle(tiles.encode_bundle(entries), 3) == entries
    assert tiles.encode_bundle([b"ab"]) == b"\0\2ab"


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("an entry less", b"\0\1a"),
        ("an entry more", b"\0\1a\0\1b\0\1c"),
        ("trailing bytes", b"\0\1a\0\1bx"),
        ("half a length", b"\0\1a\0\1b\0"),
        ("cut short", b"\0\1a\0\2b"),
    ],
)
def test_a_malformed_bundle_is_refused(why: str, data: bytes) -> None:
    del why
    with pytest.raises(FormatError):
        tiles.decode_bundle(data, 2)


@pytest.mark.parametrize("entries", [[], [b""] * 257, [b"z" * 65_536]])
def test_what_does_not_fit_a_bundle_is_refused(entries: list[bytes]) -> None:
    with pytest.raises(FormatError):
        tiles.encode_bundle(entries)


def test_a_full_bundle_stands_in_for_a_partial_one() -> None:
    entries = [b"%d" % n for n in range(256)]
    data = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(data, 7, wider=True) == entries[:7]
    with pytest.raises(FormatError):
        tiles.decode_bundle(data, 7)
    with pytest.raises(FormatError):
        tiles.decode_bundle(tiles.encode_bundle(entries[:200]), 7, wider=True)


def test_a_full_tile_stands_in_for_a_partial_one() -> None:
    data = bytes(range(256)) * 32
    assert tiles.decode_hashes(data, 2, wider=True) == [data[:32], data[32:64]]
    for wrong in (data[:-1], data + b"x", b""):
        with pytest.raises(FormatError):
            tiles.decode_hashes(wrong, 256)
