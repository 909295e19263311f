"""The pkcs11: provider on real SoftHSM tokens."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pkcs11_help as help_
from facekeep.errors import FacekeepError, RootError, UsageError, VaultExists
from facekeep.formats.nodes import root_fingerprint
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.pkcs11_provider import Pkcs11Provider
from facekeep.keys.provider import LIMIT_WORDS, Place, RootProvider
from facekeep.keys.secrets import Secrets
from facekeep.store.holderfile import default_path

VAULT = bytes(range(16))
OLD, NEW, NEXT = b"o" * 32, b"n" * 32, b"x" * 32
KEY = f"facekeep/{VAULT.hex()}"


def mark(root: bytes) -> bytes:
    return root_fingerprint(VAULT, root)


def held(provider: RootProvider) -> dict[bytes, str]:
    return {each.root: each.state for each in provider.candidates()}


@pytest.fixture
def provider(tmp_path: Path) -> RootProvider:
    made = help_.provider(tmp_path, VAULT)
    made.provision(OLD)
    return made


def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: Callable[[], object]) -> None:
    """Call with a function that fails, as a process that died there."""
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, _die)
        with pytest.raises(KeyboardInterrupt):
            call()


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# -- the life of a root


def test_a_swap_of_roots_leaves_only_the_new_key(provider: RootProvider, tmp_path: Path) -> None:
    assert (held(provider), help_.objects(tmp_path)) == ({OLD: "current"}, [KEY])
    provider.stage(NEW)
    assert (held(provider), help_.objects(tmp_path)) == ({OLD: "current", NEW: "staged"}, [KEY, KEY])
    assert provider.read_back(mark(NEW)) == NEW
    receipts = provider.promote(mark(NEW)), provider.drop(mark(OLD))
    assert (held(provider), help_.objects(tmp_path)) == ({NEW: "current"}, [KEY])
    assert [each.action for each in receipts] == ["promoted", "destroyed"]
    with pytest.raises(RootError, match="does not hold"):
        provider.read_back(mark(OLD))


def test_every_step_may_be_taken_again(provider: RootProvider, tmp_path: Path) -> None:
    provider.stage(NEW)
    provider.stage(NEW)
    assert help_.objects(tmp_path) == [KEY, KEY]
    assert provider.promote(mark(NEW)) == provider.promote(mark(NEW))
    first = provider.drop(mark(OLD))
    assert first == provider.drop(mark(OLD)) == help_.provider(tmp_path, VAULT).drop(mark(OLD))
    assert held(provider) == {NEW: "current"}


def test_a_second_staged_root_is_refused(provider: RootProvider) -> None:
    provider.stage(NEW)
    with pytest.raises(RootError, match="already holds a staged root"):
        provider.stage(NEXT)


def test_giving_the_holder_up_leaves_nothing(provider: RootProvider, tmp_path: Path) -> None:
    provider.stage(NEW)
    assert provider.abandon() == provider.abandon()
    assert (held(provider), help_.objects(tmp_path)) == ({}, [])


def test_undoing_a_creation_leaves_nothing(provider: RootProvider, tmp_path: Path) -> None:
    provider.unprovision()
    assert help_.objects(tmp_path) == []
    assert not (tmp_path / "holder").exists()


def test_the_receipt_names_a_clone_and_what_a_token_of_files_leaves(provider: RootProvider) -> None:
    receipt = provider.drop(mark(NEW))
    assert (receipt.klass, receipt.scheme) == ("erasing", "pkcs11")
    assert receipt.limits == ("filesystem_snapshot", "flash_remanence", "token_clone")
    assert set(receipt.limits) <= LIMIT_WORDS


def test_the_root_stands_nowhere_in_clear(provider: RootProvider, tmp_path: Path) -> None:
    assert held(provider) == {OLD: "current"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not any(OLD in path.read_bytes() or OLD.hex() in path.read_text("latin-1") for path in files)


def test_the_key_never_leaves_the_token(provider: RootProvider, tmp_path: Path) -> None:
    code = (
        "import sys, pkcs11\n"
        "from pkcs11 import Attribute as A\n"
        "token = next(pkcs11.lib(sys.argv[1]).get_tokens(token_label=sys.argv[2]))\n"
        "with token.open(rw=True, user_pin=sys.argv[3]) as session:\n"
        "    (key,) = session.get_objects()\n"
        "    said = A.SENSITIVE, A.ALWAYS_SENSITIVE, A.NEVER_EXTRACTABLE, A.PRIVATE, A.LOCAL\n"
        "    assert all(key[each] for each in said)\n"
        "    denied = A.EXTRACTABLE, A.MODIFIABLE, A.COPYABLE, A.WRAP, A.SIGN\n"
        "    assert not any(key[each] for each in denied)\n"
        "    for attack in (lambda: key[A.VALUE], lambda: key.copy({A.LABEL: 'kept'})):\n"
        "        try:\n"
        "            attack()\n"
        "        except pkcs11.PKCS11Error as error:\n"
        "            print(type(error).__name__)\n"
    )
    assert held(provider) == {OLD: "current"}
    said = help_.elsewhere(tmp_path, code, help_module(), help_.LABEL, help_.PIN).split()
    assert said == ["AttributeSensitive", "PKCS11Error"]


def test_the_sealed_root_is_as_the_specification_says(provider: RootProvider, tmp_path: Path) -> None:
    """Opened by the token's key with the nonce and associated data of SPEC §4.3, and by no others."""
    code = (
        "import json, sys, pkcs11\n"
        "from pkcs11 import Attribute, GCMParams, Mechanism\n"
        "(record,) = json.load(open(sys.argv[4]))['records']\n"
        "mark, vault = bytes.fromhex(record['fingerprint']), bytes(range(16))\n"
        "aad = b'facekeep/v1/pkcs11-root\\0' + vault + mark\n"
        "sealed = {name: bytes.fromhex(record['sealed'][name]) for name in ('iv', 'ciphertext')}\n"
        "token = next(pkcs11.lib(sys.argv[1]).get_tokens(token_label=sys.argv[2]))\n"
        "assert token.serial.decode() == record['sealed']['serial']\n"
        "with token.open(user_pin=sys.argv[3]) as session:\n"
        "    label = 'facekeep/' + vault.hex()\n"
        "    (key,) = session.get_objects({Attribute.LABEL: label, Attribute.ID: mark[:16]})\n"
        "    for given in (aad, aad[:-1], b''):\n"
        "        how = {'mechanism': Mechanism.AES_GCM, 'mechanism_param': GCMParams(sealed['iv'], given)}\n"
        "        try:\n"
        "            print(key.decrypt(sealed['ciphertext'], **how).decode())\n"
        "        except pkcs11.PKCS11Error:\n"
        "            print('refused')\n"
    )
    assert held(provider) == {OLD: "current"}
    said = help_.elsewhere(tmp_path, code, help_module(), help_.LABEL, help_.PIN, str(tmp_path / "holder"))
    assert said.split() == [OLD.decode(), "refused", "refused"]


def help_module() -> str:
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    return module_path(None)


# -- two holders


def test_a_second_holder_of_the_same_name_is_refused(provider: RootProvider, tmp_path: Path) -> None:
    with pytest.raises(VaultExists):
        provider.provision(OLD)
    twice = help_.provider(tmp_path, VAULT, x_file=f"{tmp_path}/other")
    with pytest.raises(RootError, match="already has keys") as caught:
        twice.provision(OLD)
    assert "object=" in caught.value.next
    assert not (tmp_path / "other").exists()
    assert held(provider) == {OLD: "current"}


def test_two_holders_on_one_token_leave_each_other_alone(provider: RootProvider, tmp_path: Path) -> None:
    second = help_.provider(tmp_path, VAULT, object="second", x_file=f"{tmp_path}/other")
    second.provision(OLD)
    another = help_.provider(tmp_path, bytes(16), x_file=f"{tmp_path}/third")
    another.provision(OLD)
    second.stage(NEW)
    second.abandon()
    assert help_.objects(tmp_path) == sorted([KEY, f"facekeep/{bytes(16).hex()}"])
    assert held(provider) == held(another) == {OLD: "current"}


# -- a process that dies


def test_a_key_whose_record_was_never_written_is_swept(
    provider: RootProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(provider, Pkcs11Provider)
    failing(monkeypatch, provider.file, "write", lambda: provider.stage(NEW))
    assert (held(provider), help_.objects(tmp_path)) == ({OLD: "current"}, [KEY, KEY])
    provider.stage(NEXT)
    assert (held(provider), help_.objects(tmp_path)) == ({OLD: "current", NEXT: "staged"}, [KEY, KEY])


def test_a_record_whose_key_is_destroyed_is_dropped_again(
    provider: RootProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(provider, Pkcs11Provider)
    provider.stage(NEW)
    provider.promote(mark(NEW))
    failing(monkeypatch, provider.file, "write", lambda: provider.drop(mark(OLD)))
    assert (held(provider), help_.objects(tmp_path)) == ({NEW: "current"}, [KEY])
    assert len(provider.damage) == 1
    provider.stage(NEXT)
    assert held(provider) == {NEW: "current", NEXT: "staged"}
    provider.drop(mark(OLD))
    assert not provider.damage


def test_a_creation_that_fails_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = help_.provider(tmp_path, VAULT)
    failing(monkeypatch, made, "read_back", lambda: made.provision(OLD))
    assert help_.objects(tmp_path) == []
    made.provision(OLD)
    assert held(made) == {OLD: "current"}


# -- processes and threads


def test_another_process_sees_what_was_done(provider: RootProvider, tmp_path: Path) -> None:
    provider.stage(NEW)
    code = (
        "import sys, pathlib, pkcs11_help\n"
        "made = pkcs11_help.provider(pathlib.Path(sys.argv[1]), bytes(range(16)))\n"
        "staged = made.candidates()[1].fingerprint\n"
        "made.promote(staged)\n"
        "[made.drop(each.fingerprint) for each in made.candidates() if each.fingerprint != staged]\n"
        "print(made.candidates()[0].root.decode())\n"
    )
    assert help_.elsewhere(tmp_path, code, str(tmp_path)).strip() == NEW.decode()
    assert held(provider) == {NEW: "current"}
    with pytest.raises(RootError):
        provider.read_back(mark(OLD))


def test_a_forked_process_opens_the_token_for_itself(provider: RootProvider) -> None:
    """The library and every session are opened anew: PKCS #11 gives a child none of its parent's."""
    from facekeep.keys.pkcs11_module import PROCESS  # noqa: PLC0415 - an extra

    assert held(provider) == {OLD: "current"}
    read, write = os.pipe()
    child = os.fork()
    if not child:
        outcome = b"no"
        try:
            assert PROCESS.sessions == {}
            assert PROCESS.inherited == {help_module()}
            provider.stage(NEW)
            assert not PROCESS.inherited
            outcome = b"yes" if held(provider) == {OLD: "current", NEW: "staged"} else b"other"
        finally:
            os.write(write, outcome)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"yes"
    os.waitpid(child, 0)
    assert held(provider) == {OLD: "current", NEW: "staged"}


def test_threads_share_one_library(provider: RootProvider, tmp_path: Path) -> None:
    second = help_.provider(tmp_path, VAULT)
    wrong: list[object] = []

    def read(holder: RootProvider) -> None:
        for _ in range(20):
            try:
                if holder.read_back(mark(OLD)) != OLD:
                    wrong.append("another root")
            except BaseException as error:  # noqa: BLE001 - whatever a thread meets is the finding
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(each,)) for each in (provider, second) * 3]
    for thread in threads:
        thread.start()
    second.stage(NEW)
    second.drop(mark(NEW))
    for thread in threads:
        thread.join()
    assert wrong == []


# -- tokens and libraries


def test_a_token_that_was_away_is_opened_again(provider: RootProvider, tmp_path: Path) -> None:
    assert held(provider) == {OLD: "current"}
    (token,) = [path for path in (tmp_path / "tokens").iterdir() if path.is_dir()]
    token.rename(tmp_path / "drawer")
    for call in (provider.candidates, lambda: provider.stage(NEW), lambda: provider.drop(mark(OLD))):
        with pytest.raises(RootError, match="is not there") as caught:
            call()
        assert "pkcs11-tool" in caught.value.next
    (tmp_path / "drawer").rename(token)
    assert held(provider) == {OLD: "current"}


def test_a_token_that_never_was(tmp_path: Path) -> None:
    help_.set_up(tmp_path)
    made = provider_from_uri("pkcs11:token=other", Place(VAULT, tmp_path))
    with pytest.raises(RootError, match="the token token=other is not there"):
        made.provision(OLD)
    assert not default_path(VAULT, "pkcs11").exists()


def test_two_tokens_that_match_are_refused(provider: RootProvider, tmp_path: Path) -> None:
    serial = str(dict(provider.file.read()[0].sealed)["serial"])  # type: ignore[attr-defined]
    help_.make_token(help_.LABEL)
    help_.forget()
    with pytest.raises(RootError, match="2 tokens are") as caught:
        provider.candidates()
    assert "serial=" in caught.value.next
    assert serial in str(caught.value)
    assert held(help_.provider(tmp_path, VAULT, serial=serial)) == {OLD: "current"}


def test_a_library_that_is_missing_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    help_.set_up(tmp_path)
    none = tmp_path / "none.so"
    none.write_text("no library")
    for path, said in (
        (str(tmp_path / "missing.so"), "no PKCS #11 library"),
        (str(none), "cannot be started"),
    ):
        monkeypatch.setenv("FACEKEEP_PKCS11_MODULE", path)
        with pytest.raises(RootError, match=said) as caught:
            help_.provider_here(tmp_path, VAULT).provision(OLD)
        assert caught.value.next


def test_a_library_is_named_where_softhsm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    help_.require()
    from facekeep.keys import pkcs11_module  # noqa: PLC0415 - an extra

    monkeypatch.delenv("FACEKEEP_PKCS11_MODULE", raising=False)
    monkeypatch.setattr(pkcs11_module, "SOFTHSM", ())
    with pytest.raises(RootError, match="no PKCS #11 library is named") as caught:
        pkcs11_module.module_path(None)
    assert "module-path" in caught.value.next


def test_without_the_package_the_install_command_is_given(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['pkcs11'] = None\n"
        "from pathlib import Path\n"
        "from facekeep.errors import MissingDependency\n"
        "from facekeep.keys.holders import provider_from_uri\n"
        "from facekeep.keys.provider import Place\n"
        "made = provider_from_uri('pkcs11:token=a?x-file=h', Place(bytes(16), Path(sys.argv[1])))\n"
        "try:\n"
        "    made.provision(bytes(32))\n"
        "except MissingDependency as error:\n"
        "    print(error)\n"
    )
    said = help_.elsewhere(tmp_path, code, str(tmp_path))
    assert said == "a pkcs11: root needs python-pkcs11: pip install 'facekeep[pkcs11]'\n"
    assert list(tmp_path.iterdir()) == []


# -- the PIN


def flags() -> int:
    """Flags of the token, as it says now."""
    import pkcs11  # noqa: PLC0415 - an extra

    tokens = [slot.get_token() for slot in pkcs11.lib(help_module()).get_slots(token_present=True)]
    (found,) = [token for token in tokens if token.label == help_.LABEL]
    return int(found.flags)


def count_low() -> bool:
    from pkcs11 import TokenFlag  # noqa: PLC0415 - an extra

    return bool(flags() & TokenFlag.USER_PIN_COUNT_LOW)


def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    help_.provider(tmp_path, VAULT).provision(OLD)
    (tmp_path / "pin").write_text("000000\n")
    help_.forget()
    one = help_.provider(tmp_path, VAULT)
    with pytest.raises(RootError, match="is wrong; it is not tried again") as caught:
        one.candidates()
    assert "000000" not in str(caught.value) + caught.value.next
    assert str(tmp_path / "pin") in caught.value.next
    assert count_low()
    # A right PIN elsewhere clears the flag: another try of the wrong one would set it again.
    assert help_.objects(tmp_path) == [KEY]
    assert not count_low()
    for again in (one, help_.provider_here(tmp_path, VAULT)):
        with pytest.raises(RootError, match="refused before and is not tried again"):
            again.candidates()
    assert not count_low()
    (tmp_path / "pin").write_text(help_.PIN)
    assert held(one) == {OLD: "current"}


@pytest.mark.parametrize(
    ("name", "said", "step"),
    [
        ("USER_PIN_FINAL_TRY", "one more wrong PIN locks", "log in once yourself"),
        ("USER_PIN_LOCKED", "is locked after wrong PINs", "SO PIN"),
    ],
)
def test_a_last_try_is_not_ours_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str, step: str
) -> None:
    """SoftHSM never locks: the flag is added to what the token says, and the PIN is a wrong one."""
    help_.set_up(tmp_path)
    import pkcs11  # noqa: PLC0415 - an extra

    from facekeep.keys import pkcs11_token  # noqa: PLC0415 - an extra

    (tmp_path / "pin").write_text("000000\n")
    monkeypatch.setattr(pkcs11_token, "flags_of", lambda token: token.flags | pkcs11.TokenFlag[name])
    with pytest.raises(RootError, match=said) as caught:
        help_.provider_here(tmp_path, VAULT).provision(OLD)
    assert step in caught.value.next
    assert not count_low()


def test_a_token_that_another_process_is_writing_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM that starts at that moment says that there is no such token."""
    made = help_.provider(tmp_path, VAULT)
    made.provision(OLD)
    from facekeep.keys import pkcs11_token  # noqa: PLC0415 - an extra

    choose, times = pkcs11_token.Token._choose, iter([1, 2])

    def unseen(token: pkcs11_token.Token, path: str) -> object:
        if next(times, None):
            raise pkcs11_token._Away
        return choose(token, path)

    monkeypatch.setattr(pkcs11_token.Token, "_choose", unseen)
    assert [each.root for each in made.candidates()] == [OLD]
    monkeypatch.setattr(pkcs11_token, "_PAUSES", (0.0, 0.0))
    times = itertools.repeat(1)
    with pytest.raises(RootError, match="is not there"):
        made.candidates()


def test_a_token_without_a_pin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    help_.set_up(tmp_path)
    import pkcs11  # noqa: PLC0415 - an extra

    from facekeep.keys import pkcs11_token  # noqa: PLC0415 - an extra

    monkeypatch.setattr(
        pkcs11_token, "flags_of", lambda token: token.flags & ~pkcs11.TokenFlag.USER_PIN_INITIALIZED
    )
    with pytest.raises(RootError, match="has no user PIN yet"):
        help_.provider_here(tmp_path, VAULT).provision(OLD)


@pytest.mark.parametrize("pin", [b"\xff\xfe\n", b"1\n", b"x" * 300])
def test_what_cannot_be_a_pin_is_refused(tmp_path: Path, pin: bytes) -> None:
    help_.set_up(tmp_path)
    (tmp_path / "pin").write_bytes(pin)
    with pytest.raises(RootError, match="is wrong"):
        help_.provider_here(tmp_path, VAULT).provision(OLD)


def test_a_pin_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    help_.set_up(tmp_path)
    (tmp_path / "pin").chmod(0o640)
    with pytest.raises(RootError, match="others can read") as caught:
        help_.provider_here(tmp_path, VAULT).provision(OLD)
    assert caught.value.next == f"chmod 600 '{tmp_path}/pin'"


def test_without_a_pin_source_the_secrets_are_asked(tmp_path: Path) -> None:
    help_.set_up(tmp_path)
    asked: list[tuple[str, str]] = []

    def ask(name: str, purpose: str) -> bytes:
        asked.append((name, purpose))
        return help_.PIN.encode()

    rest = f"pkcs11:token=vault%20keys?x-file={tmp_path}/holder"
    made = provider_from_uri(rest, Place(VAULT, tmp_path, Secrets(ask)))
    made.provision(OLD)
    assert held(made) == {OLD: "current"}
    assert asked == [("pin", f"the token token={help_.LABEL}")]
    help_.forget()
    mute = provider_from_uri(rest, Place(VAULT, tmp_path))
    with pytest.raises(RootError, match="there is no pin") as caught:
        mute.candidates()
    assert "FACEKEEP_PIN_FILE" in caught.value.next


# -- URIs


def test_the_scheme_is_registered_and_touches_nothing(tmp_path: Path) -> None:
    made = provider_from_uri("pkcs11:token=a?x-file=sub/h", Place(VAULT, tmp_path))
    assert isinstance(made, Pkcs11Provider)
    assert made.file.path == tmp_path / "sub" / "h"
    assert list(tmp_path.iterdir()) == []
    default = provider_from_uri("pkcs11:token=a", Place(VAULT, tmp_path))
    assert isinstance(default, Pkcs11Provider)
    assert default.file.path == default_path(VAULT, "pkcs11")
    for uri in ("pkcs11:", "pkcs11:token=a?x-file=~nobody-here/h", "pkcs11:token=a?pin-value=1"):
        with pytest.raises(UsageError):
            provider_from_uri(uri, Place(VAULT, tmp_path))


def test_an_error_of_the_library_is_one_clear_error(
    provider: RootProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pkcs11 import exceptions as rv  # noqa: PLC0415 - an extra

    from facekeep.keys import pkcs11_keys  # noqa: PLC0415 - an extra

    for error, step in (
        (rv.DeviceMemory, "full"),
        (rv.MechanismInvalid, "AES"),
        (rv.DeviceError, "pkcs11-tool"),
    ):

        def refuse(*_: object, error: type[Exception] = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(pkcs11_keys, "_generate", refuse)
            with pytest.raises(FacekeepError) as caught:
                provider.stage(NEW)
        assert isinstance(caught.value, RootError)
        assert step in caught.value.next
        assert help_.LABEL in str(caught.value)
    assert (held(provider), help_.objects(tmp_path)) == ({OLD: "current"}, [KEY])
