"""Honest words, and links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")]
DOCS = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_claims_what_software_cannot(page: Path) -> None:
    claims = re.compile("compli" + "an|anony" + "m|unbreakable|military|bank-grade|100 ?%", re.IGNORECASE)
    assert claims.findall(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES + DOCS, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_says_what_it_does_not_do() -> None:
    assert "## What it does not do" in (ROOT / "README.md").read_text()
