"""Which role may do what: the table of the code is that of the specification, and no word more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facekeep.formats.roles import ALLOWED, actions_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "spec" / "log.md"


def of_the_page() -> dict[str, frozenset[str]]:
    rows = re.findall(r"^\| `([a-z]+)` \| ((?:`[a-z]+`(?:, )?)+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    table = {role: frozenset(re.findall(r"[a-z]+", actions)) for role, actions in rows}
    return {role: table[role] for role in ("service", "registrar", "operator", "auditor", "dpo")}


def test_the_table_is_that_of_the_specification() -> None:
    assert dict(ALLOWED) == of_the_page()


def test_several_roles_allow_what_each_of_them_does() -> None:
    assert actions_of([]) == frozenset()
    assert actions_of(["auditor", "service"]) == {"check", "status", "log", "verify", "identify"}
    with pytest.raises(KeyError):
        actions_of(["service", "nobody"])
