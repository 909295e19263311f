"""The specification is two pages with one numbering: what is cited is there, and once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "spec" / f"{name}.md" for name in ("log", "vault")]


def sections(depth: str) -> Counter[str]:
    found = (
        re.findall(rf"^{depth} (\d+(?:\.\d+)?)", page.read_text("utf-8"), re.MULTILINE) for page in PAGES
    )
    return Counter(number for page in found for number in page)


def test_every_section_stands_in_one_page() -> None:
    assert set(sections("###").values()) == {1}


def cited(text: str, mark: str = "") -> set[str]:
    """Sections cited; 2.1 is RFC 6962's."""
    return set(re.findall(rf"{mark}(?<!800-38D )(?<!r2 )§(\d+(?:\.\d+)?)\b", text)) - {"2.1"}


def test_what_is_cited_is_there() -> None:
    there = set(sections("###?"))
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("docs/**/*.md")]:
        assert cited(path.read_text("utf-8"), "" if path in PAGES else r"SPEC\s+") <= there, path


def test_a_verifier_needs_one_page() -> None:
    """What the log's page cites of the vault's is where a value comes from, not how to judge it."""
    text = PAGES[0].read_text("utf-8")
    own = set(re.findall(r"^###? (\d+(?:\.\d+)?)", text, re.MULTILINE))
    assert cited(text) - own == SOURCES


SOURCES = {"3.3", "4", "4.1", "4.7", "5.2", "5.6", "5.8", "6.3", "8.3", "9.1", "9.2", "13"}
