"""A vault with a recovery key, for the tests of keys/, operations/ and the command."""

from __future__ import annotations

from facekeep.keys.recovery_key import RecoveryKey

SEED = bytes(range(32))
KEY = RecoveryKey.of(SEED)
OTHER = RecoveryKey.of(bytes(32))
