"""vault.toml: what is written is read back, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekeep.errors import FormatError
from facekeep.formats.settings import Settings

PATHS = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"]) | st.just(" ")
)
GOOD = Settings(bytes(range(16)), "file:../x.root", ("/a", "/b c"), "DE")


@settings(deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    PATHS,
    st.lists(PATHS, max_size=3),
    st.sampled_from(["DE", "ZZ", "EU"]),
)
def test_written_and_read_back(vault_id: bytes, uri: str, copies: list[str], region: str) -> None:
    settings = Settings(vault_id, uri, tuple(copies), region)
    assert Settings.decode(settings.encode()) == settings


def test_the_digest_depends_on_every_field() -> None:
    others = [
        Settings(bytes(16), GOOD.root_uri, GOOD.copies, GOOD.region),
        Settings(GOOD.vault_id, "file:y", GOOD.copies, GOOD.region),
        Settings(GOOD.vault_id, GOOD.root_uri, ("/a",), GOOD.region),
        Settings(GOOD.vault_id, GOOD.root_uri, ("/b c", "/a"), GOOD.region),
        Settings(GOOD.vault_id, GOOD.root_uri, GOOD.copies, "FR"),
    ]
    assert len({each.digest() for each in (GOOD, *others)}) == 6
    assert len(GOOD.digest()) == 32
    assert Settings.decode(GOOD.encode() + "\n# a remark\n").digest() == GOOD.digest()


TEXT = GOOD.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        TEXT + "extra = 1\n",
        TEXT + "[more]\n",
        TEXT.replace("format = 1", "format = 2"),
        TEXT.replace("format = 1", 'format = "1"'),
        TEXT.replace("format = 1", "format = 1.5"),
        TEXT.replace("format = 1\n", ""),
        TEXT.replace("0001", "000"),
        TEXT.replace("0a0b", "0A0B"),
        TEXT.replace('"DE"', '"de"'),
        TEXT.replace('"DE"', '"DEU"'),
        TEXT.replace('"DE"', '["DE"]'),
        TEXT.replace('["/a", "/b c"]', '"/a"'),
        TEXT.replace('["/a", "/b c"]', "[1]"),
        TEXT.replace('["/a", "/b c"]', '{a = "/a"}'),
        TEXT.replace("[root]", "[[root]]"),
        TEXT.replace('uri = "file:../x.root"', "uri = 1979-05-27"),
        TEXT.replace('uri = "file:../x.root"', 'uri = "a"\nurl = "b"'),
        TEXT + '[settings]\nregion = "FR"\n',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Settings.decode(text)


def test_unprintable_paths_are_not_written() -> None:
    with pytest.raises(FormatError):
        Settings(bytes(16), "file:a\nb", (), "DE").encode()
