"""The library as an application imports it: names, times, tokens, the log, the guide's examples."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from mypy import api as mypy

import facekeep
from facekeep.errors import (
    ConsentError,
    Denied,
    ErasurePending,
    FacekeepError,
    NotAllowed,
    StoreError,
    UsageError,
)
from facekeep.vault import Consent, Filter, Vault
from surface_help import named
from vaultlab import DAY, MODEL, NOTICE, NOW, THRESHOLD, VERIFY, Lab, face, slots

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "integrator.md").read_text()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FACEKEEP_TOKEN", raising=False)
    monkeypatch.delenv("FACEKEEP_TOKEN_FILE", raising=False)
    return Lab(tmp_path).create()


# Names


def test_every_type_of_a_public_signature_is_exported() -> None:
    for each in named():
        assert getattr(facekeep, each.__name__) is each, each


def test_every_error_is_exported() -> None:
    from facekeep import errors  # noqa: PLC0415 - the module, not a name of the library

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, FacekeepError) and name != "SlotDead":
            assert getattr(facekeep, name) is kind


def test_every_export_is_documented() -> None:
    rows = [line for line in GUIDE.splitlines() if line.startswith("|")]
    words = set(re.findall(r"`(\w+)`", "\n".join(rows)))
    assert sorted(set(facekeep._PLACES) - words) == []


def test_type_checkers_see_the_same_names() -> None:
    body = ast.parse(Path(facekeep.__file__).read_text()).body
    block = next(each for each in body if isinstance(each, ast.If))
    seen = {
        alias.name: str(each.module).removeprefix("facekeep")
        for each in block.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert seen == facekeep._PLACES
    assert set(facekeep._PLACES) <= set(dir(facekeep))


def test_the_package_alone_loads_nothing() -> None:
    heavy = "{'numpy', 'sqlite3', 'cryptography', 'click'}"
    before = f"import sys; heavy = {heavy} - set(sys.modules)"  # what measures coverage has some of them
    code = f"{before}; import facekeep; print(heavy & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Valut'"):
        _ = facekeep.Valut  # type: ignore[attr-defined]
    assert not hasattr(facekeep, "numpy")


# Times


@pytest.mark.parametrize(
    ("expires", "at_ms"),
    [
        (timedelta(days=30), NOW + 30 * DAY),
        (timedelta(milliseconds=1, microseconds=900), NOW + 1),
        (datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(days=9), NOW + 9 * DAY),
        (datetime(2027, 5, 1, tzinfo=timezone(timedelta(hours=2))), 1_809_122_400_000),
    ],
)
def test_consent_ends_at_a_date_or_after_a_span(lab: Lab, expires: datetime | timedelta, at_ms: int) -> None:
    consent = Consent((VERIFY,), NOTICE, expires=expires)
    with lab.open() as vault:
        receipt = vault.enroll("ada", embeddings=face("ada"), model=MODEL, consent=consent)
    assert receipt.grants[0].expires_at_ms == at_ms


@pytest.mark.parametrize(
    ("consent", "said"),
    [
        (Consent((VERIFY,), NOTICE), "needs an end"),
        (Consent((VERIFY,), NOTICE, NOW + DAY, expires=timedelta(days=1)), "expires is given twice"),
        (Consent((VERIFY,), NOTICE, expires=datetime(2030, 1, 1)), "no time zone"),  # noqa: DTZ001 - the mistake
        (Consent((VERIFY,), NOTICE, expires=timedelta(days=-1)), "in the past"),
        (Consent((VERIFY,), NOTICE, expires=timedelta(0)), "in the past"),
        (Consent((VERIFY,), NOTICE, expires=timedelta.max), "at the most"),
        (Consent((VERIFY,), NOTICE, expires=datetime.max.replace(tzinfo=UTC)), "at the most"),
        (Consent((VERIFY,), NOTICE, expires=datetime.min.replace(tzinfo=UTC)), "in the past"),
    ],
)
def test_an_end_that_is_none_is_refused(lab: Lab, consent: Consent, said: str) -> None:
    with lab.open() as vault, pytest.raises(ConsentError, match=said) as caught:
        vault.enroll("ada", embeddings=face("ada"), model=MODEL, consent=consent)
    assert caught.value.next


UTC_NOW = datetime.fromtimestamp(NOW / 1000, UTC)


def test_every_time_of_a_consent_is_given_in_the_same_ways(lab: Lab) -> None:
    day = timedelta(days=1)
    one = Consent((VERIFY,), NOTICE, expires=9 * day, not_before=day, expressed_at=-day)
    two = Consent(
        (VERIFY,), NOTICE, expires=UTC_NOW + 9 * day, not_before=UTC_NOW + day, expressed_at=UTC_NOW - day
    )
    ms = Consent((VERIFY,), NOTICE, NOW + 9 * DAY, not_before_ms=NOW + DAY, expressed_at_ms=NOW - DAY)
    assert one.settled(NOW, "DE") == two.settled(NOW, "DE") == ms.settled(NOW, "DE")
    naive = UTC_NOW.replace(tzinfo=None)
    for wrong in (
        Consent((VERIFY,), NOTICE, NOW + DAY, not_before=naive),
        Consent((VERIFY,), NOTICE, NOW + DAY, expressed_at=naive),
    ):
        with lab.open() as vault, pytest.raises(ConsentError, match="no time zone") as caught:
            vault.enroll("ada", embeddings=face("ada"), model=MODEL, consent=wrong)
        assert "tzinfo=UTC" in caught.value.next
    for twice in (
        Consent((VERIFY,), NOTICE, NOW + DAY, not_before=day, not_before_ms=NOW),
        Consent((VERIFY,), NOTICE, NOW + DAY, expressed_at=-day, expressed_at_ms=NOW),
    ):
        with pytest.raises(ConsentError, match="given twice"):
            twice.settled(NOW, "DE")


def test_the_log_is_listed_between_times_of_the_same_kinds(lab: Lab) -> None:
    lab.enrol("ada")
    lab.clock.ms += DAY
    lab.enrol("bob")
    with lab.open() as vault:
        every = len(list(vault.audit_log()))
        first = len(list(vault.audit_log(Filter(until_ms=NOW + 1))))
        assert 0 < first < every
        assert len(list(vault.audit_log(Filter(until=UTC_NOW + timedelta(milliseconds=1))))) == first
        assert len(list(vault.audit_log(Filter(since=timedelta(hours=1))))) == every - first
        with pytest.raises(UsageError, match="until has no time zone"):
            vault.audit_log(Filter(until=UTC_NOW.replace(tzinfo=None)))
        with pytest.raises(UsageError, match="given twice"):
            vault.audit_log(Filter(since=UTC_NOW, since_ms=NOW))
        with pytest.raises(UsageError, match="given twice"):
            vault.subjects(due_within=timedelta(1), due_within_ms=1)


def test_a_span_counts_from_each_enrolment_on(lab: Lab) -> None:
    consent = Consent((VERIFY,), NOTICE, expires=timedelta(days=1))
    with lab.open() as vault:
        for name in ("ada", "bob"):
            receipt = vault.enroll(name, embeddings=face(name), model=MODEL, consent=consent)
            assert receipt.grants[0].expires_at_ms == lab.clock.ms + DAY
            lab.clock.ms += 5_000
        assert [each.subject for each in vault.subjects(due_within=timedelta(days=1))]
        assert not list(vault.subjects(due_within=timedelta(hours=1)))


# Tokens


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_vault_finds_its_token_where_the_command_does(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowed, match="no token"):
        Vault.open(lab.path, clock=lab.clock)
    with lab.open() as vault:
        default = lab.base / "config" / "facekeep" / "tokens" / f"{vault.vault_id}.token"
    token_file(default, lab.token + "\n")
    Vault.open(lab.path, clock=lab.clock).close()
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", str(token_file(lab.base / "other", "fkt1.no")))
    with pytest.raises(NotAllowed):  # it comes before the default one
        Vault.open(lab.path, clock=lab.clock)
    monkeypatch.setenv("FACEKEEP_TOKEN", lab.token)
    Vault.open(lab.path, clock=lab.clock).close()
    monkeypatch.setenv("FACEKEEP_TOKEN", "fkt1.no")
    Vault.open(lab.path, token=lab.token, clock=lab.clock).close()  # what is given wins
    with pytest.raises(NotAllowed):
        Vault.open(lab.path, token="", clock=lab.clock)
    monkeypatch.delenv("FACEKEEP_TOKEN")
    token_file(lab.base / "other", lab.token)
    assert not Vault.scrub(lab.path, clock=lab.clock).left


def test_a_token_that_others_can_read_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKEEP_TOKEN_FILE", str(token_file(lab.base / "mine", lab.token, 0o644)))
    with pytest.raises(NotAllowed, match="others can read") as caught:
        Vault.open(lab.path, clock=lab.clock)
    assert caught.value.next.startswith("chmod 600")


# The log


def test_the_log_has_what_an_operator_should_hear_of(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "facekeep")
    lab.enrol("alice-of-the-door")
    with lab.open() as vault:
        with pytest.raises(Denied) as denied:
            vault.verify("mallory-of-the-door", face("x"), model=MODEL, threshold=THRESHOLD)
        with pytest.raises(UsageError):
            vault.enroll("bob-of-the-door", ["bob-of-the-door.jpg"], consent=lab.consent(VERIFY))
        done = vault.shred("alice-of-the-door")
        opened = f"vault {vault.vault_id} opened by principal {vault.whoami()[0]}"
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "facekeep"]
    assert ("INFO", opened) in said
    assert ("INFO", f"Vault.verify: denied, decision {denied.value.decision}") in said
    assert ("INFO", f"erased 2 grants of 1 people: log entry {done.erasure}") in said
    assert [text for level, text in said if level == "DEBUG"] == ["Vault.prepare: image"]
    assert "of-the-door" not in caplog.text
    assert lab.token.split(".")[2] not in caplog.text


def test_an_error_is_logged_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.enrol("alice")
    with lab.open() as vault:
        vault.change_settings(copies=[_made(lab.base / "copy")])
        (lab.base / "copy").rename(lab.base / "unplugged")
        with pytest.raises(ErasurePending):
            vault.shred("alice")
        assert [each.levelname for each in caplog.records].count("WARNING") == 1
        assert "Vault.shred: what was asked for is denied to everybody" in caplog.text


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_the_log_goes_nowhere_by_itself(lab: Lab) -> None:
    code = f"""if True:
        import contextlib, facekeep
        with contextlib.suppress(facekeep.NotAllowed):
            facekeep.Vault.open({str(lab.path)!r}, token="none")
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


# The guide's examples

BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
#: What the second example takes for granted.
GIVEN = """\
import numpy as np
import numpy.typing as npt

from facekeep import Consent, Threshold, Vault


Rows = npt.NDArray[np.float32]


def example(vault: Vault, rows: Rows, probe: Rows, measured: Threshold, agreed: Consent) -> None:
"""


def test_the_guides_examples_pass_mypy(tmp_path: Path) -> None:
    first, *others = BLOCKS
    (tmp_path / "first.py").write_text(first)
    for number, block in enumerate(others):
        (tmp_path / f"other{number}.py").write_text(GIVEN + re.sub("^", "    ", block, flags=re.MULTILINE))
    files = [str(each) for each in sorted(tmp_path.glob("*.py"))]
    said, wrong, status = mypy.run(
        ["--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}", *files]
    )
    assert status == 0, said + wrong


def test_the_guides_further_examples_run(lab: Lab) -> None:
    space: dict[str, object] = {}
    with lab.open() as vault:
        given = re.sub(r"raw:arc/3:512", f"{MODEL.id}:32", GIVEN)
        for number, block in enumerate(BLOCKS[1:]):
            body = block.replace("raw:arc/3:512:cosine", "raw:lab/1:32:l2")
            code = given + re.sub("^", "    ", body, flags=re.MULTILINE)
            exec(compile(code, f"example {number}", "exec"), space)  # noqa: S102 - our own words
            example = space["example"]
            assert callable(example)
            example(vault, face("ada")[None], face("ada"), THRESHOLD, lab.consent(VERIFY))
        assert slots(vault, "ada")


def test_no_home_and_a_directory_that_cannot_be_looked_at_hold_no_token(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FACEKEEP_TOKEN", "FACEKEEP_TOKEN_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", homeless)
        with pytest.raises(NotAllowed, match="no token for this vault"):
            Vault.open(lab.path)
        patch.delenv("XDG_DATA_HOME", raising=False)
        for root in (None, "tpm2:"):
            with pytest.raises(UsageError, match="no home directory"):
                Vault.create(lab.base / "homeless", root=root)
        assert not (lab.base / "homeless").exists()
    monkeypatch.setenv("XDG_CONFIG_HOME", "/" + "x" * 300)
    with pytest.raises(NotAllowed, match="no token for this vault"):
        Vault.open(lab.path)


def test_a_path_at_which_nothing_can_be_looked_at_is_an_error_of_ours() -> None:
    with pytest.raises(StoreError, match=r"^vault\.toml: "):
        Vault.open(Path("a/" * 2_045), token="fkt1.no")
