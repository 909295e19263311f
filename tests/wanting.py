"""What a test needs and the machine may lack: a stranger's clone skips the test, CI fails it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def wanting(message: str) -> NoReturn:
    """End the test: it has not been run."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
