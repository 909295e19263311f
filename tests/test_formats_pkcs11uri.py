from __future__ import annotations

import pytest

from facekeep.errors import UsageError
from facekeep.formats.pkcs11uri import parse


def test_everything_that_is_honoured() -> None:
    uri = parse(
        "token=The%20Software%20PKCS%2311;serial=00%3b1;manufacturer=M&S;model=(v2);slot-id=7;object=door;"
        "slot-description=a,b;slot-manufacturer=%C3%A9;type=secret-key"
        "?module-path=/usr/lib/x.so&pin-source=file:/etc/pin&x-file=~/keys/a%26b"
    )
    assert dict(uri.match) == {
        "token": "The Software PKCS#11",
        "serial": "00;1",
        "manufacturer": "M&S",
        "model": "(v2)",
        "slot-id": "7",
        "slot-description": "a,b",
        "slot-manufacturer": "é",
    }
    assert (uri.label, uri.module, uri.pin_source, uri.file) == (
        "door",
        "/usr/lib/x.so",
        "/etc/pin",
        "~/keys/a&b",
    )
    assert uri.name.startswith("token=The Software PKCS#11, serial=00;1")


def test_what_is_not_named_is_left_to_the_defaults() -> None:
    uri = parse("serial=1")
    assert (uri.label, uri.module, uri.pin_source, uri.file) == ("facekeep", None, None, None)


@pytest.mark.parametrize("source", ["/etc/pin", "file:/etc/pin", "file:///etc/pin"])
def test_a_pin_source_is_a_path_or_a_file_uri(source: str) -> None:
    assert parse(f"token=a?pin-source={source}").pin_source == "/etc/pin"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "token",
        "token=",
        "=a",
        "token=a;",
        ";token=a",
        "token=a;token=a",
        "token=a;token=b",
        "tokne=a",
        "Token=a",
        "token=a b",
        "token=a%2",
        "token=a%zz",
        "token=%ff",
        "token=%00",
        "token=%0a",
        "token=é",
        "token=a#b",
        "token=a/b",
        "token=a;id=%01",
        "token=a;type=private",
        "token=a;object=",
        "token=a;object=a%2fb",
        "token=a;object=" + "x" * 33,
        "token=a;slot-id=x",
        "token=a;slot-id=01",
        "token=a;slot-id=-1",
        "token=a;library-version=2.0",
        "token=a;x-vendor=1",
        "manufacturer=a",
        "object=a",
        "token=a?",
        "token=a?module-path",
        "token=a?module-path=",
        "token=a?module-path=lib.so",
        "token=a?module-path=/a&module-path=/b",
        "token=a?module-name=softhsm",
        "token=a?pin-source=pin",
        "token=a?pin-source=file:pin",
        "token=a?pin-source=|/bin/cat",
        "token=a?pin-source=%7C/bin/cat",
        "token=a?x-vendor=1",
        "token=a?token=b",
        "token=a?x-file=",
        "token=a;x-file=b",
        "token=" + "a" * 4096,
    ],
)
def test_anything_else_is_refused(rest: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(rest)
    assert caught.value.next


def test_a_pin_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=r"does not belong in vault\.toml") as caught:
        parse("token=a?pin-value=471100")
    assert "471100" not in str(caught.value) + caught.value.next
    assert "pin-source" in caught.value.next
