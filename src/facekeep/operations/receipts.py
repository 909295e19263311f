"""What a subject is told of its grants."""

from __future__ import annotations

from typing import NamedTuple

from facekeep.formats.canonical import JsonObject


class GrantReceipt(NamedTuple):
    """One grant as told to the subject. Times in ms."""

    scope: str
    grant: str
    slot: int
    expires_at_ms: int


class Receipt(NamedTuple):
    """What the subject is given: the opening of the tag (``salt``), and the grants."""

    subject: str
    tag: str
    salt: str
    grants: tuple[GrantReceipt, ...]
    skipped: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the receipt as JSON."""
        return {
            "grants": [
                {
                    "expires_at_ms": grant.expires_at_ms,
                    "grant": grant.grant,
                    "scope": grant.scope,
                    "slot": grant.slot,
                }
                for grant in self.grants
            ],
            "salt": self.salt,
            "skipped": list(self.skipped),
            "subject": self.subject,
            "tag": self.tag,
        }
