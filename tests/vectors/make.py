"""Make the cases of this directory (README.md): python tests/vectors/make.py [DIRECTORY]

Logs, bundles and exports are made with the helpers of the tests and with this repository's code, so that a
run after a change of a format has that format. A run that changes nothing writes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the helpers of the tests

import cases_decisions
import cases_exports
import cases_grants
import cases_log
import cases_notes
import cases_proofs
import cases_rotations
from making import HERE, Vectors, steady

PAGES = (cases_notes, cases_log, cases_grants, cases_decisions, cases_rotations, cases_exports, cases_proofs)


def main(directory: Path = HERE) -> Vectors:
    """Write everything."""
    made = Vectors(directory)
    with steady(HERE):
        for page in PAGES:
            page.everything(made)
    made.end()
    return made


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
