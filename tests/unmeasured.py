"""The environment of a child process that coverage does not follow: it would load sqlite3 there."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}
