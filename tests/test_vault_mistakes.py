"""A caller's mistakes: each has a class and a code of its own, and says what to write instead."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cli_help import CONSENT, Cli, embedding
from facekeep import errors
from facekeep.errors import (
    AlreadyEnrolled,
    ConsentError,
    FacekeepError,
    ImageError,
    IntegrityError,
    NextStep,
    RootError,
    ScopeUnknown,
    StoreError,
    SubjectUnknown,
    UsageError,
    WrongType,
)
from facekeep.formats.note import VerifierKey
from facekeep.matching.model import Model
from facekeep.operations.move import Holders
from facekeep.vault import Consent, Enrolment, Role, Scope, Selection
from vaultlab import IDENTIFY, MODEL, NOTICE, NOW, THRESHOLD, VERIFY, Lab, face

SOURCE = Path(__file__).resolve().parent.parent / "src" / "facekeep"
Call = Callable[[Any, Lab], object]  # a vault of which mypy knows nothing: these are mistakes


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path).create()
    lab.enrol("alice")
    (tmp_path / "garbage").write_bytes(b"garbage")
    return lab


def verify(vault: Any, **more: object) -> object:  # noqa: ANN401 - as above
    return vault.verify("alice", face("alice"), **{"model": MODEL, "threshold": THRESHOLD, **more})


#: name -> (call, class, what its next step says)
MISTAKES: dict[str, tuple[Call, type[FacekeepError], str]] = {
    "a photograph for a list of them": (
        lambda vault, lab: vault.enroll("x", "one.jpg", consent=lab.consent(VERIFY)), WrongType, "images=[",
    ),
    "a path for a list of photographs": (
        lambda vault, lab: vault.enroll("x", Path("one.jpg"), consent=lab.consent(VERIFY)),
        WrongType, "images=[...]",
    ),
    "the bytes of a photograph": (
        lambda vault, lab: vault.prepare("x", b"\xff", consent=lab.consent(VERIFY)), WrongType, "images=[",
    ),
    "a photograph that is not there": (
        lambda vault, lab: vault.enroll("x", ["one.jpg"], consent=lab.consent(VERIFY)), ImageError, "path"
    ),
    "one enrolment for many": (
        lambda vault, lab: vault.enroll_many(lab.enrolment("x")), WrongType, "type"
    ),
    "no consent": (lambda vault, _lab: vault.enroll("x", ["a.jpg"], consent=None), WrongType, "type"),
    "no consent in an enrolment": (
        lambda vault, _lab: vault.enroll_many([Enrolment("x", face("x")[None], MODEL, cast("Any", 0))]),
        WrongType, "type",
    ),
    "bytes for a subject": (
        lambda vault, lab: vault.enroll_many(
            [Enrolment(cast("str", b"x"), face("x")[None], MODEL, lab.consent(VERIFY))]
        ), WrongType, "type",
    ),
    "a subject that is enrolled": (
        lambda vault, lab: vault.enroll_many([lab.enrolment("alice")]), AlreadyEnrolled, "existing='replace'"
    ),
    "a scope that is granted": (
        lambda vault, lab: vault.grant("alice", lab.consent(VERIFY)), AlreadyEnrolled, "vault.renew()"
    ),
    "no word of existing": (
        lambda vault, lab: vault.enroll_many([lab.enrolment("x")], existing="replce"), UsageError, "input"
    ),
    "a word that is no scope": (
        lambda vault, _lab: vault.withdraw("alice", ["verfy"]), ScopeUnknown, "verify, identify"
    ),
    "a word that is no scope, asked for": (
        lambda vault, _lab: vault.is_enrolled("alice", ["verfy"]), ScopeUnknown, "verify, identify"
    ),
    "a word in capitals": (lambda vault, _lab: vault.withdraw("alice", ["VERIFY"]), ScopeUnknown, "verify"),
    "a word for a list of them": (
        lambda vault, _lab: vault.withdraw("alice", "verify"), WrongType, "scopes=[...]"
    ),
    "a scope for a list of them": (
        lambda vault, _lab: vault.withdraw("alice", Scope.VERIFY), WrongType, "scopes=[...]"
    ),
    "a number for a scope": (lambda vault, _lab: vault.withdraw("alice", [2]), WrongType, "type"),
    "a word in a consent": (
        lambda _vault, _lab: Consent(cast("Any", ("verify",)), NOTICE, NOW + 1), WrongType, "type"
    ),
    "a fraction of a millisecond": (
        lambda _vault, _lab: Consent((VERIFY,), NOTICE, cast("int", NOW + 0.5)), WrongType, "type"
    ),
    "a region for a list of them": (
        lambda _vault, _lab: Consent((VERIFY,), NOTICE, NOW, regions=cast("Any", "DE")), WrongType, "[...]"
    ),
    "an end in the past": (
        lambda vault, _lab: vault.renew("alice", Consent((VERIFY,), NOTICE, NOW - 1)), ConsentError, "terms"
    ),
    "a scope that was not granted": (
        lambda vault, _lab: vault.withdraw("alice", [Scope.TRAIN]), SubjectUnknown, "vault.subjects()"
    ),
    "a scope to renew that was not granted": (
        lambda vault, lab: vault.renew("alice", lab.consent(Scope.TRAIN)), SubjectUnknown, "vault.grant()"
    ),
    "nobody to withdraw": (
        lambda vault, _lab: vault.withdraw("mallory", [VERIFY]), SubjectUnknown, "vault.subjects()"
    ),
    "nobody to renew": (
        lambda vault, lab: vault.renew("mallory", lab.consent(VERIFY)), SubjectUnknown, "vault.subjects()"
    ),
    "nobody to grant to": (
        lambda vault, lab: vault.grant("mallory", lab.consent(VERIFY)), SubjectUnknown, "vault.subjects()"
    ),
    "nobody to shred": (lambda vault, _lab: vault.shred("mallory"), SubjectUnknown, "vault.subjects()"),
    "a list to shred": (lambda vault, _lab: vault.shred(["alice"]), WrongType, "type"),
    "a region in small letters": (lambda vault, _lab: verify(vault, region="de"), UsageError, "input"),
    "an empty region": (lambda vault, _lab: verify(vault, region=""), UsageError, "input"),
    "a region to search": (
        lambda vault, _lab: vault.identify(face("x"), model=MODEL, threshold=THRESHOLD, region="Germany"),
        UsageError, "input",
    ),
    "a gallery's region": (lambda vault, _lab: vault.gallery(model=MODEL, region="x"), UsageError, "input"),
    "a number for a threshold": (lambda vault, _lab: verify(vault, threshold=0.4), WrongType, "type"),
    "a model without a name": (lambda _vault, _lab: Model("Bad Name", "1", 8, "l2"), UsageError, "input"),
    "a word for a role": (
        lambda vault, _lab: vault.add_principal("door", ["service"]), WrongType, "type"
    ),
    "a role for a list of them": (
        lambda vault, _lab: vault.add_principal("door", Role.SERVICE), WrongType, "roles=[...]"
    ),
    "nobody to revoke": (lambda vault, _lab: vault.revoke_principal("zz"), UsageError, "vault.principals()"),
    "no checkpoint": (
        lambda vault, _lab: vault.audit_consistency(b"garbage"), UsageError, "an earlier checkpoint"
    ),
    "text for a checkpoint": (lambda vault, _lab: vault.audit_consistency("note"), WrongType, "type"),
    "a file to export into": (
        lambda vault, lab: vault.audit_export(lab.base / "garbage"), UsageError, "a new or empty one"
    ),
    "nothing erased": (lambda vault, _lab: vault.audit_proof("garbage"), UsageError, "receipt"),
    "a backup that is there": (
        lambda vault, lab: vault.backup(lab.base / "garbage"), UsageError, "another name"
    ),
    "a backup to nowhere": (lambda vault, lab: vault.backup(lab.base / "no" / "f"), StoreError, "make it"),
    "no backup": (lambda vault, lab: vault.restore(lab.base / "no"), UsageError, "input"),
    "no limits": (lambda vault, _lab: vault.change_settings(matching=["top=x"]), UsageError, "limits"),
    "a mirror for a list of them": (
        lambda _vault, _lab: Holders(mirrors=cast("Any", "file:x")), WrongType, "mirrors=[...]"
    ),
    "a holder of no kind": (lambda vault, _lab: vault.keys.move(Holders("x")), UsageError, "schemes"),
    "a model to seal again": (
        lambda vault, _lab: vault.keys.rotate_templates(selection=Selection("Bad Name")), UsageError, "input"
    ),
    "an epoch to come": (
        lambda vault, _lab: vault.keys.rotate_templates(selection=Selection(before_epoch=99)),
        UsageError, "vault.status()",
    ),
    "a word for a reason": (lambda vault, _lab: vault.keys.rotate_root("leak"), WrongType, "type"),
    "no rotation": (lambda vault, _lab: vault.keys.extent("roots"), UsageError, "input"),
    "days as text": (lambda vault, _lab: vault.subjects(due_within_ms="30d"), WrongType, "type"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_class_of_its_own_and_a_remedy(lab: Lab, name: str) -> None:
    call, kind, remedy = MISTAKES[name]
    with lab.open() as vault:
        with pytest.raises(kind) as caught:
            call(vault, lab)
        assert type(caught.value) is kind
        assert remedy in caught.value.next
        assert not isinstance(caught.value, IntegrityError)
        assert "facekeep " not in caught.value.next
        assert {each.subject for each in vault.subjects()} == {"alice"}


def test_words_do_for_scopes(lab: Lab) -> None:
    with lab.open() as vault:
        assert vault.is_enrolled("alice", ["verify", IDENTIFY])
        assert vault.withdraw("alice", ["verify"]).slots == 1
        assert not vault.is_enrolled("alice", {"verify"})  # type: ignore[arg-type] # a set does at run time


def test_what_is_no_backup_is_not_to_be_restored_from_a_backup(lab: Lab) -> None:
    with lab.open() as vault:
        for call in (vault.restore, vault.check_backup):
            with pytest.raises(IntegrityError) as caught:
                call(lab.base / "garbage")
            assert "vault.backup()" in caught.value.next


def test_what_is_no_key_is_not_to_be_restored_from_a_backup() -> None:
    with pytest.raises(errors.FormatError) as caught:
        VerifierKey.parse("garbage")
    assert caught.value.next.startswith("correct it where it is yours")


def test_a_call_that_lacks_an_argument_says_so_as_python_does(lab: Lab) -> None:
    with (
        lab.open() as vault,
        pytest.raises(TypeError, match="missing 1 required positional argument") as caught,
    ):
        cast("Any", vault).withdraw("alice")
    assert not isinstance(caught.value, FacekeepError)


# The next step is said in the words of whoever is asked


def literals() -> Iterator[tuple[Path, str]]:
    """Texts of the library that are no docstrings; the commands and the auditor have their own words."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] in {"cli", "audit", "demo"} or path == SOURCE / "errors.py":
            continue
        tree = ast.parse(path.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield path, node.value


#: What only the command does, or another program.
COMMANDS_ALONE = re.compile(
    r"facekeep keys recover|--private|pkcs11-tool|--login|tpm2_|--tpmkey|--ulimit|"
    r"--(enable|hmac|policy)-|pip install|--clear-lockout|# Written by facekeep"
)


def test_the_librarys_next_step_names_no_command() -> None:
    texts = [(path, text) for path, text in literals() if not COMMANDS_ALONE.search(text)]
    left = [
        (path.name, text) for path, text in texts if re.search(r"facekeep [a-z]+|--[a-z]", NextStep(text))
    ]
    words = {
        "facekeep file",
        "facekeep token",
        "facekeep is",
        "facekeep log",
        "facekeep gives",
        "facekeep knows",
    }
    words |= {"facekeep does", "facekeep takes", "facekeep recovery", "facekeep extractor", "facekeep wrote"}
    left = [(name, text) for name, text in left if not any(each in text for each in words)]
    assert left == []


def test_every_defaults_next_step_names_no_command() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, FacekeepError):
            assert not re.search(r"facekeep |--", NextStep(kind.default_next)), kind


def test_a_next_step_is_kept_in_both_words() -> None:
    first = UsageError("it", next="use --existing replace or add, or 'facekeep renew' for new terms")
    assert first.next == "use existing='replace' or 'add', or vault.renew() for new terms"
    second = RootError(str(first), next=first.next)
    assert second.next == first.next
    assert second.next.command == "use --existing replace or add, or 'facekeep renew' for new terms"
    again = pickle.loads(pickle.dumps(first.next))  # noqa: S301 - our own
    assert (again, again.command) == (first.next, first.next.command)


def test_the_commands_next_step_names_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, monkeypatch)
    cli.enroll("ada", "ada")
    again = cli.run("enroll", "ada", *embedding("ada"), "--scope", "verify", *CONSENT, "--json")
    assert (again.code, again.error["code"]) == (16, "already_enrolled")
    assert "--existing replace" in again.error["next"]
    unknown = cli.run("shred", "eve", "--yes", "--json").error
    assert "'facekeep subjects'" in unknown["next"]
