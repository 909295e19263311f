"""Nothing that docs/operator.md has typed is left untyped, and no message of its later sections unmet."""

from __future__ import annotations

import importlib
import re

import pytest

import guide_help

MODULES = (
    "test_cli_recovery",
    "test_operator_disasters",
    "test_operator_guide",
    "test_operator_layers",
    "test_operator_pkcs11",
    "test_operator_tpm2",
    "test_vault_openbao",
)
KINDS = {"text", "json", "hcl"}  # of frames: none is for a shell


@pytest.fixture(autouse=True, scope="module")
def _every_typing_test() -> None:
    for name in MODULES:
        importlib.import_module(name)


def test_every_command_of_the_guide_is_typed_by_a_test() -> None:
    assert guide_help.headings_with_commands() == guide_help.claimed


def test_every_message_of_these_tables_is_met_and_mended_by_a_test() -> None:
    titles = ("When it refuses", "When it does not open", "What it says when something is amiss")
    rows = {(each.title, each.message) for title in titles for each in guide_help.rows(title)}
    assert rows == guide_help.mended
    assert len(rows) > 25


def test_no_two_headings_are_the_same() -> None:
    titles = [title for title, _ in guide_help.sections()]
    assert sorted(titles) == sorted(set(titles))


def test_no_command_is_in_a_frame() -> None:
    frames = [frame for title, _ in guide_help.sections() for frame in guide_help.frames(title)]
    assert {kind for kind, _ in frames} == KINDS
    lines = guide_help.commands(*guide_help.headings_with_commands())
    programs = {line.split()[0] for line in lines}
    assert not {line.split(" ")[0] for _, text in frames for line in text.splitlines()} & programs


def test_the_guide_says_what_is_to_be_filled_in() -> None:
    lines = "\n".join(guide_help.commands(*guide_help.headings_with_commands()))
    words = set(re.findall(r"(?<![\w$.{-])[A-Z]{2,}(?![\w.=-])", lines))
    assert words - {"DE"} == set(guide_help.PLACEHOLDERS)
    beginning = guide_help.text_of("Operator guide")
    (named,) = re.findall(r"^Words in capitals \((.*?)\) are for you to fill in", beginning, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", named)) == set(guide_help.PLACEHOLDERS)
