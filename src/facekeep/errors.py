"""Every error facekeep raises.

Each class has a stable ``code`` (for machines) and an ``exit_code`` (for shells); each instance
has a one-line message and the ``next`` step a person should take::

    FacekeepError
    +-- UsageError            (10)  the caller's input is not acceptable
    |   +-- ImageError        (11)  a photograph cannot be turned into exactly one template
    |   +-- ConsentError      (12)  consent terms are not acceptable
    |   |   +-- ScopeUnknown  (15)  a word is no scope
    |   +-- SubjectUnknown    (13)  no living grant under that subject id
    |   +-- VaultExists       (14)  there is already something where a vault should be made
    |   +-- AlreadyEnrolled   (16)  the subject has a living grant in that scope
    |   +-- WrongType         (17)  a value is of another type than is asked for; a TypeError, too
    |   +-- NotOnePerson      (18)  photographs or embeddings of one subject are not of one person
    +-- Denied                (20)  the gate refused this question; the reason is in the log only
    +-- NotAllowed            (21)  the principal's roles do not allow this administration
    +-- ClockError            (22)  the clock stands before what the log has already seen
    +-- Unavailable           (23)  the vault cannot decide now: nothing is said about anybody
    +-- VaultNotFound         (30)  no vault at that path
    +-- RootError             (31)  the root key is missing, wrong or badly kept
    +-- StoreError            (32)  a file cannot be read or written (disk full, permissions)
    +-- IntegrityError        (33)  a file was altered, truncated, replaced or rolled back
    |   +-- ForeignFile       (34)  a file belongs to another vault
    |   +-- FormatError       (35)  bytes do not follow docs/spec
    +-- Busy                  (36)  another process holds the writer lock
    +-- TreeFull              (37)  the key tree has no free branch position
    +-- ErasurePending        (38)  an erasure was begun and cannot be finished yet
    +-- MissingDependency     (39)  an optional package or model file is not installed
    +-- SettingsChanged       (40)  the settings were changed while something was read
    +-- VaultClosed           (41)  the vault was closed
    +-- SlotDead              (20)  a slot's key was destroyed (never leaves the library)

Exit codes 0 and 1 are a match and no match; 2 is click's own usage error.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self

#: The command's words for what to do next, and the library's.
IN_PYTHON: Final = {
    "facekeep audit key": "vault.audit_keys()",
    "facekeep audit key --all": "vault.audit_keys(every=True)",
    "facekeep backup": "vault.backup()",
    "facekeep backup FILE": "vault.backup(FILE)",
    "facekeep check": "vault.check()",
    "facekeep check --repair": "vault.repair_index()",
    "facekeep check --scrub": "Vault.scrub(path)",
    "facekeep clock accept": "vault.accept_clock()",
    "facekeep enroll --json": "vault.enroll()",
    "facekeep grant": "vault.grant()",
    "facekeep init": "Vault.create()",
    "facekeep keys move": "vault.keys.move()",
    "facekeep keys move --lost URI": "vault.keys.move(Holders(lost=[URI]))",
    "facekeep keys resume": "vault.keys.resume()",
    "facekeep keys rotate templates": "vault.keys.rotate_templates()",
    "facekeep keys show": "vault.keys.holders()",
    "facekeep maintain": "vault.maintain()",
    "facekeep maintain --yes": "vault.maintain(confirmed=True)",
    "facekeep principal add": "vault.add_principal()",
    "facekeep principal add --role operator": "vault.add_principal(label, [Role.OPERATOR])",
    "facekeep principal list": "vault.principals()",
    "facekeep renew": "vault.renew()",
    "facekeep restore --lost-log": "Vault.restart_log(path)",
    "facekeep restore --lost-log --private FILE --root URI": "Vault.restart_log(path, recovery=KEY)",
    "facekeep restore BACKUP": "Vault.open(path, lost_data=True).restore(BACKUP)",
    "facekeep restore BACKUP --lost-log": "Vault.restart_log(path, backup=BACKUP)",
    "facekeep settings": "vault.change_settings()",
    "facekeep settings --copy DIR": "vault.change_settings(copies=[DIR])",
    "facekeep settings --threshold FILE": "vault.change_settings(thresholds=[...])",
    "facekeep settings --schedule checkpoints=DIR": "vault.change_settings(schedule=['checkpoints=DIR'])",
    "facekeep status": "vault.status()",
    "facekeep status --decision ID": "vault.decision(ID)",
    "facekeep subjects": "vault.subjects()",
    "facekeep verify --json": "Threshold.to_json()",
    "--existing replace": "existing='replace'",
    "--existing replace or add": "existing='replace' or 'add'",
    "--lost URI": "Holders(lost=[URI])",
    "--no-backup": "None",
    "--recovery": "recovery=",
    "--root": "root=",
    "--scope": "scopes=",
    "--threshold FILE.json": "threshold=",
    "--token-file": "token=",
    "--vault or FACEKEEP_VAULT": "the path",
    "type the command": "make the call",
}
_PHRASES: Final = "|".join(sorted(map(re.escape, IN_PYTHON), reverse=True))  # the longest first
_COMMANDS: Final = re.compile(rf"(run )?(?P<quote>'?)({_PHRASES})(?P=quote)(?![\w-])")


class NextStep(str):
    """What to do next, in the library's words; ``command`` has it in the command's."""

    __slots__ = ("command",)
    command: str

    def __new__(cls, text: str) -> Self:
        """Translate what is said in the command's words; a step stays as it is."""
        step = super().__new__(cls, text if isinstance(text, cls) else _COMMANDS.sub(_in_python, text))
        step.command = text.command if isinstance(text, NextStep) else text
        return step


def _in_python(found: re.Match[str]) -> str:
    return ("call " if found[1] else "") + IN_PYTHON[found[3]]


class FacekeepError(Exception):
    """Base class: ``str(error)`` is the message, ``error.next`` what to do about it, in Python."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 9
    default_next: ClassVar[str] = "run 'facekeep check' and read its report"
    logged: bool = False  # by the call that it left

    def __init__(self, message: str, *, next: str | None = None) -> None:  # noqa: A002 - the contract's name
        """Keep the message and the next step (``default_next`` where none is given)."""
        super().__init__(message)
        self.next = NextStep(next or self.default_next)


class UsageError(FacekeepError):
    """The caller's input is not acceptable; nothing was done."""

    code = "usage"
    exit_code = 10
    default_next = "correct the input and try again"


class ImageError(UsageError):
    """A photograph cannot be turned into exactly one template."""

    code = "image"
    exit_code = 11
    default_next = "use another photograph: one face, well lit, at least 80 pixels wide"

    def __init__(self, message: str, *, reason: str, next: str | None = None) -> None:  # noqa: A002 - as above
        """Keep the ``reason`` as well: a word of the integrator guide's table, for machines."""
        super().__init__(message, next=next)
        self.reason = reason


class ConsentError(UsageError):
    """Consent terms are not acceptable (no expiry, expiry in the past, unknown scope, ...)."""

    code = "consent"
    exit_code = 12
    default_next = "correct the consent terms and try again"


class ScopeUnknown(ConsentError):
    """A word is no scope."""

    code = "scope_unknown"
    exit_code = 15
    default_next = "name verify, identify, evaluate, train or share"


class SubjectUnknown(UsageError):
    """No living grant stands under that subject id."""

    code = "subject_unknown"
    exit_code = 13
    default_next = "check the id; an operator can list them with 'facekeep subjects'"


class VaultExists(UsageError):
    """There is already something where a vault should be made."""

    code = "vault_exists"
    exit_code = 14
    default_next = "choose another path; nothing there was touched"


class AlreadyEnrolled(UsageError):
    """The subject has a living grant in that scope."""

    code = "already_enrolled"
    exit_code = 16
    default_next = "give it new terms with 'facekeep renew'"


class WrongType(UsageError, TypeError):
    """A value is of another type than is asked for, or is used as what it is not."""

    code = "wrong_type"
    exit_code = 17
    default_next = "pass a value of the type that is named"


class NotOnePerson(UsageError):
    """Photographs or embeddings of one subject are not of one person.

    ``rows`` are those that are odd, counted from 0: those already enrolled come first where some are added.
    """

    code = "not_one_person"
    exit_code = 18
    default_next = "nobody was enrolled; leave out what is named, or enrol each person under their own id"

    def __init__(self, message: str, *, rows: tuple[int, ...]) -> None:
        """Keep the odd rows."""
        super().__init__(message)
        self.rows = rows


class Denied(FacekeepError):
    """The gate refused. The outside learns nothing more; the log holds the reason."""

    code = "denied"
    exit_code = 20
    default_next = "an operator can read the reason: facekeep status --decision ID"

    def __init__(
        self,
        message: str = "denied",
        *,
        next: str | None = None,  # noqa: A002 - the contract's name
        decision: str | None = None,
    ) -> None:
        """Keep the id of what the log says, None when not even that could be recorded."""
        super().__init__(message, next=next)
        self.decision = decision


class Unavailable(FacekeepError):
    """The vault cannot decide now, and says nothing about anybody: no "no" follows from it."""

    code = "unavailable"
    exit_code = 23
    default_next = "try again; if it lasts, an operator can read the reason: facekeep status --decision ID"

    def __init__(
        self,
        message: str = "unavailable",
        *,
        next: str | None = None,  # noqa: A002 - the contract's name
        decision: str | None = None,
    ) -> None:
        """Keep the id of what the log says, None when not even that could be recorded."""
        super().__init__(message, next=next)
        self.decision = decision


class NotAllowed(FacekeepError):
    """The principal is unknown, revoked, or its roles do not allow this action."""

    code = "not_allowed"
    exit_code = 21
    default_next = "use a token whose role allows it (FACEKEEP_TOKEN or --token-file)"


class ClockError(FacekeepError):
    """The clock stands before what the log has already seen."""

    code = "clock"
    exit_code = 22
    default_next = "correct the system clock; if the log's time is the wrong one: facekeep clock accept"


class VaultNotFound(FacekeepError):
    """There is no vault at that path."""

    code = "vault_not_found"
    exit_code = 30
    default_next = "check --vault or FACEKEEP_VAULT, or make one with 'facekeep init'"


class RootError(FacekeepError):
    """The root key is missing, wrong, or kept where others can read it."""

    code = "root"
    exit_code = 31
    default_next = "check the root provider in vault.toml; no file was changed"


class StoreError(FacekeepError):
    """A file cannot be read or written (disk full, permissions, I/O error)."""

    code = "store"
    exit_code = 32
    default_next = "free space or mend permissions, then try again; committed data is not lost"


class IntegrityError(FacekeepError):
    """A file was altered, truncated, replaced or rolled back."""

    code = "integrity"
    exit_code = 33
    default_next = "run 'facekeep check'; restore the named file from its live copy or a backup"


class ForeignFile(IntegrityError):
    """A file belongs to another vault."""

    code = "foreign_file"
    exit_code = 34
    default_next = "put the vault's own file back; nothing was changed"


class FormatError(IntegrityError):
    """Bytes do not follow docs/spec."""

    code = "format"
    exit_code = 35
    default_next = "correct it where it is yours; where it is a file of the vault, run 'facekeep check'"


class Busy(FacekeepError):
    """Another process holds the writer lock."""

    code = "busy"
    exit_code = 36
    default_next = "wait for the other operation to end, then try again"


class TreeFull(FacekeepError):
    """The key tree has no free branch position."""

    code = "tree_full"
    exit_code = 37
    default_next = "shred what has expired, or start another vault"


class ErasurePending(FacekeepError):
    """An erasure was begun (and is denied at the gate) but cannot be finished yet."""

    code = "erasure_pending"
    exit_code = 38
    default_next = "bring the missing root holder or copy back; any writing command then finishes it"


class MissingDependency(FacekeepError):
    """An optional package or model file is not installed."""

    code = "missing_dependency"
    exit_code = 39
    default_next = "install the extra named in the message"


class SettingsChanged(FacekeepError):
    """The settings were changed since the vault was opened, which opens itself again at its next call.

    So no call is half under the old region. It leaves the library where one cannot be begun again: a listing.
    """

    code = "settings_changed"
    exit_code = 40
    default_next = "begin again"


class VaultClosed(FacekeepError):
    """The vault was closed; nothing was done, and nothing is wrong with it."""

    code = "closed"
    exit_code = 41
    default_next = "open the vault again: Vault.open"

    def __init__(
        self,
        message: str = "the vault is closed",
        *,
        next: str | None = None,  # noqa: A002 - the contract's name
    ) -> None:
        """Say so."""
        super().__init__(message, next=next)


class SlotDead(FacekeepError):
    """The slot's key was destroyed. Raised inside the library; the gate turns it into a denial."""

    code = "slot_dead"
    exit_code = 20
    default_next = "nothing can open it again; enrol the subject anew with their consent"
