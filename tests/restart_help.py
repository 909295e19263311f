"""A log that is begun anew, for the auditor's tests and the published vectors (SPEC §6.6)."""

from __future__ import annotations

from audit_help import ALICE, BOB, DAY, NOW, OPERATOR, SERVICE, SIGNER, VAULT, Book, fingerprint, item, v
from facekeep.auditlog.restarting import restart_entry
from facekeep.auditlog.signed import LogSigner
from facekeep.formats import entries
from facekeep.formats.canonical import JsonObject

PIN = (41, b"p" * 32)
OTHER = LogSigner(b"o" * 32, VAULT)  # keys that nobody was given


def begun(by: str = OPERATOR, signer: LogSigner = SIGNER, pin: tuple[int, bytes] = PIN) -> JsonObject:
    """Entry 0."""
    return restart_entry(
        signer,
        vault_id=VAULT,
        epoch=3,
        fingerprint=fingerprint(3),
        provider_class="erasing",
        scheme="file",
        settings_digest=bytes(32),
        pin=pin,
        seen=None,
        by=by,
        time_ms=NOW,
    )


class Restarted(Book):
    """A restarted log, entry by entry."""

    def restart(self, by: str = OPERATOR, signer: LogSigner = SIGNER) -> None:
        self.epoch = 3
        self.add(begun(by, signer))

    def adopt_people(self, *roles: str) -> None:
        self.principal(SERVICE, 16, "service", by=None)
        self.principal(OPERATOR, 17, *(roles or ("operator",)), by=None)

    def end(self, *closed: int, next_principal: int = 240) -> int:
        return self.add(
            entries.restarted(
                closed=closed or (1, 2),
                next_principal=next_principal,
                left=1,
                by=OPERATOR,
                time_ms=self.now,
            )
        )


def adopted() -> Restarted:
    """A restart as the vault makes it, up to its last entry but one."""
    book = Restarted()
    book.restart()
    book.adopt_people()
    book.grant("adopt", item(v(3), ALICE), item(v(7), BOB, expires=NOW - DAY, begins=NOW - 9 * DAY))
    return book
