"""Which face of a photograph is the subject's (docs/adr/0002-extraction.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from facekeep.errors import ImageError
from facekeep.limits import LIMITS

DOMINANCE: Final = 2.0  # area of the chosen face over the next one's; less is a photograph of two people


@dataclass(frozen=True, slots=True)
class Box:
    """A detected face, in pixels; may reach beyond the picture's edge.

    ``sure`` is whether the detector is sure of it. An unsure box is often a hand, a badge, a crease.
    """

    left: float
    top: float
    width: float
    height: float
    sure: bool = True

    @property
    def area(self) -> float:
        """Square pixels."""
        return max(0.0, self.width) * max(0.0, self.height)


def choose(boxes: Sequence[Box], name: str) -> int:
    """Index of the one face of a photograph; raises ImageError with its ``name`` where that is not clear.

    It is the largest of those the detector is sure of (of all, where it is sure of none). Another such face
    must be ``DOMINANCE`` times smaller, and an unsure one not as many times larger.
    """
    if not boxes:
        raise ImageError(f"{name}: no face found", reason="no_face")
    certain = [index for index, box in enumerate(boxes) if box.sure] or list(range(len(boxes)))
    best = max(certain, key=lambda index: boxes[index].area)
    area = boxes[best].area
    rivals = [
        index
        for index, box in enumerate(boxes)
        if index != best and box.area * (DOMINANCE if index in certain else 1 / DOMINANCE) > area
    ]
    if rivals:
        raise ImageError(
            f"{name}: {len(boxes)} faces found, none of them clearly the largest",
            reason="several_faces",
            next="crop the photograph to the one person it is about",
        )
    if min(boxes[best].width, boxes[best].height) < LIMITS.face_side:
        raise ImageError(f"{name}: the face is smaller than {LIMITS.face_side} pixels", reason="too_small")
    return best
