"""The certificate: self-contained, honest, and nothing in it is markup of somebody else's."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from auditlog_help import NOW
from facekeep.audit.certificate import render
from facekeep.formats.bundle import NOT_PROVED, Statement
from facekeep.formats.terms import Scope, Terms
from proof_help import OPENING, TAG, destroy, destroyed, forge, grant, item, proven, story

VOID = {"meta", "br", "hr", "img", "link"}


class Balanced(HTMLParser):
    """Every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert not parser.seen & {"script", "img", "link", "iframe", "object", "form"}


def test_it_needs_nothing_from_anywhere() -> None:
    page = render(proven(forge(story())))
    check(page)
    assert not re.search(r"https?:|url\(|@import", page)
    assert "default-src 'none'" in page
    assert page.startswith("<!DOCTYPE html>")


def test_it_lists_what_is_not_proved() -> None:
    page = render(proven(forge(story())))
    for sentence in NOT_PROVED.values():
        assert sentence.replace("'", "&#x27;") in page
    assert "named in the proof" in page
    assert page.count("not judged") == 2


def test_it_says_what_holds() -> None:
    page = render(proven(forge(story())))
    for text in (TAG.hex(), "Cryptographic Erase", "NIST SP 800-88r2", "epoch 1", "epoch 2", "log entry 3"):
        assert text in page
    assert "the old root key destroyed" in page
    assert "both keys" in page
    assert "anonymous" not in page.lower()
    assert "complian" not in page.lower()


def test_the_person_is_named_only_where_the_opening_was_given() -> None:
    data = forge(story())
    assert "<strong>ada</strong>" in render(proven(data, opening=OPENING))
    assert "<strong>" not in render(proven(data))


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'><img src=x>", "&amp;", "naïve ☃"])
def test_the_operators_words_stay_words(text: str) -> None:
    statement = Statement("0.1.0", organization=text, role=text, media=text, exported=text)
    page = render(proven(forge(story(), statement=statement)))
    check(page)
    assert "<script>" not in page
    assert "<img" not in page


def test_one_grant_and_many() -> None:
    one = [story()[0], grant(item(2 << 21)), *story()[2:3], destroy(2 << 21), destroyed(3)]
    assert "the only key" in render(proven(forge(one)))
    slots = [(2 << 21) + at for at in range(3)]
    many = [story()[0], grant(*map(item, slots)), *story()[2:3], destroy(*slots), destroyed(3)]
    assert "all 3 keys" in render(proven(forge(many)))


def test_a_region_is_a_code_or_said_to_be_none() -> None:
    assert ", DE</td>" in render(proven(forge(story())))
    terms = Terms(Scope.IDENTIFY, NOW, NOW + 1000, ("FR", "ZZ"), 1, 16, bytes(32)).pack()
    log = [story()[0], grant(item(2 << 21, terms=terms)), *story()[2:3], destroy(2 << 21), destroyed(3)]
    assert ", FR, no region stated</td>" in render(proven(forge(log)))


def test_times_beyond_the_calendar_do_not_fail() -> None:
    log = story()
    log[1]["time_ms"] = 2**53 - 1
    assert f"{2**53 - 1} ms"[:10] in render(proven(forge(log)))
