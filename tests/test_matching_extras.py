"""The core without the extras: it imports, and says what to install."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys
for name in ("PIL", "dlib", "cv2", "pillow_heif", "face_recognition_models"):
    sys.modules[name] = None
import numpy as np
from facekeep.errors import MissingDependency
from facekeep.matching.extractor import get_extractor
from facekeep.matching.images import RgbImage, load_rgb
assert load_rgb(RgbImage(np.zeros((9, 9, 3), np.uint8))).shape == (9, 9, 3)
for call in (lambda: load_rgb(b"x"), lambda: get_extractor(), lambda: get_extractor("sface")):
    try:
        call()
    except MissingDependency as error:
        print(error)
"""


def test_without_any_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "photographs need Pillow: pip install 'facekeep[dlib]'",
        "the dlib extractor needs dlib: pip install 'facekeep[dlib]'",
        "the sface extractor needs OpenCV: pip install 'facekeep[sface]'",
    ]
