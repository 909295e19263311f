"""Fixtures every test module may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wanting import wanting


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photographs and embeddings that are not part of the project; the models lie at ``../models``."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("FACEKEEP_SHARED_DATA", default))
    if not folder.is_dir():
        message = "no shared data: set FACEKEEP_SHARED_DATA"
        wanting(message)
    return folder
