"""Photographs to RGB arrays (docs/adr/0002-extraction.md).

Whatever is not surely a whole, visible photograph of bearable size is refused with an ImageError, which names
the file but not where it lies.
"""

from __future__ import annotations

import ctypes
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.errors import ImageError, MissingDependency
from facekeep.limits import LIMITS
from facekeep.matching.containers import Source, damaged, read, several, unsupported
from facekeep.matching.directories import orientation

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]

_FIRST_FRAME: Final = frozenset({"MPO", "HEIF"})  # the further ones are other views of the same moment
_DIRECT: Final = frozenset({"1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LA", "PA", "La", "RGBa"})
_DIVIDED: Final = {"La": "LA", "RGBa": "RGBA"}  # colours that were multiplied by alpha
_GREYS: Final = frozenset({"1", "L", "LA", "La"})
_WORDS: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_FAST: Final = frozenset(
    {"raw", "jpeg", "zip", "gif", "libtiff", "packbits"}
)  # Pillow's others are in Python
_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's mode -> ICC colour space
_WORD: Final = 65_535  # white in 16-bit grey
_LONGEST_NAME: Final = 80


class _Strict:
    """Hold Pillow's process-wide switch for half files off while anybody here decodes.

    face_recognition switches it on: half a file then gives a template. No lock is held while decoding.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        from PIL import ImageFile  # noqa: PLC0415 - an extra

        with self._lock:
            if not self._inside:
                self._before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._inside += 1
        try:
            yield
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                raise ValueError("switched on meanwhile: the picture may be half a one")
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    ImageFile.LOAD_TRUNCATED_IMAGES = self._before


_strict = _Strict()


class PillowImage(Protocol):
    """What ``PIL.Image.Image`` is known by where Pillow is not installed."""

    @property
    def mode(self) -> str:
        """Pillow's name of the pixel format."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def getexif(self) -> object:
        """EXIF data."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RgbImage:
    """An array that is known to be RGB: uint8 of shape (height, width, 3).

    OpenCV's arrays are BGR, which moves a distance by up to 0.28: turn the last axis round first.
    """

    array: Pixels

    def __post_init__(self) -> None:
        """Raise ImageError for an array of another kind."""
        array: object = self.array
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3 or not array.size:  # noqa: PLR2004 - axes
            raise ImageError("an RGB array is uint8 of shape (height, width, 3)", reason="not_a_photograph")
        if array.shape[2] != 3:  # noqa: PLR2004 - red, green, blue
            raise ImageError("an RGB array is uint8 of shape (height, width, 3)", reason="not_a_photograph")


ImageInput: TypeAlias = str | Path | bytes | RgbImage | PillowImage


def name_of(image: ImageInput) -> str:
    """Return what messages call a photograph: the quoted name of its file, never its folder."""
    if not isinstance(image, str | Path):
        return "the photograph"
    name = Path(image).name
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")


def load_rgb(image: ImageInput) -> Pixels:
    """Return a photograph upright as uint8 RGB of shape (h, w, 3), at most LIMITS.image_side long.

    Raises ImageError, and MissingDependency where Pillow or its HEIF plug-in is needed and missing.
    """
    name = name_of(image)
    if isinstance(image, RgbImage):
        _check_size(image.array.shape[1], image.array.shape[0], name)
        if max(image.array.shape) <= LIMITS.image_side:
            return np.ascontiguousarray(image.array)
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependency("photographs need Pillow: pip install 'facekeep[dlib]'") from error
    if isinstance(image, RgbImage):
        return np.ascontiguousarray(_shrunk(Image.fromarray(np.ascontiguousarray(image.array))), np.uint8)
    if isinstance(image, str | Path):
        image = _read(Path(image), name)
    if isinstance(image, Image.Image):
        unread = getattr(image, "fp", None) if getattr(image, "tile", None) else None
        if unread is None:
            return _pixels(image, Source("", b""), name)
        unread.seek(0)
        image = unread.read(LIMITS.image_file_bytes + 1)
    if isinstance(image, bytes):
        return _decoded(image, name)
    raise ImageError(
        f"a photograph is a path, bytes, an RgbImage or a Pillow image, not a {type(image).__name__}",
        reason="not_a_photograph",
        next="wrap an RGB array as RgbImage(array)",
    )


def _read(path: Path, name: str) -> bytes:
    """Bytes of a regular file. A named pipe would be waited for, a device never end."""
    try:
        with open(path, "rb", opener=_unwaiting) as file:  # Path.open has no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"{name}: not a file", reason="unreadable")
            data = file.read(LIMITS.image_file_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", reason="unreadable", next="check the path") from error
    except IsADirectoryError as error:
        raise ImageError(
            f"{name}: a folder, not a photograph", reason="unreadable", next="name the photographs in it"
        ) from error
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: cannot be read", reason="unreadable", next="check the path and its permissions"
        ) from error
    return data


def _unwaiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decoded(data: bytes, name: str) -> Pixels:
    if not data:
        raise ImageError(f"{name}: empty", reason="damaged")
    if len(data) > LIMITS.image_file_bytes:
        raise ImageError(f"{name}: larger than {LIMITS.image_file_bytes // 2**20} MiB", reason="too_large")
    source = read(data, name)
    with _refusals(name), _opened(source.data, source.kind, name) as image:
        _check_size(*image.size, name)
        _check_tiles(image, source.kind, name)
        if getattr(image, "is_animated", False) and image.format not in _FIRST_FRAME:
            raise several(name)
        with _strict():
            image.load()
            if source.control is not None:
                _check_whole(image, source.control, name)
        return _pixels(image, source, name)


def _check_tiles(image: Image.Image, kind: str, name: str) -> None:
    """Raise ImageError where Pillow would decode in Python, or has no data for some rows of a TIFF."""
    tiles = getattr(image, "tile", ())
    if any(each[0] not in _FAST for each in tiles):
        raise unsupported(name, f"a {kind} file of this kind")
    areas = [(right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in tiles]
    if kind == "TIFF" and sum(areas) < image.width * image.height:
        raise damaged(name)


def _check_whole(image: Image.Image, control: bytes, name: str) -> None:
    """Raise ImageError for half a JPEG, which libjpeg fills with grey."""
    from PIL import ImageChops  # noqa: PLC0415 - an extra

    with _opened(control, "JPEG", name) as other:
        if ImageChops.difference(image, other).getbbox() is not None:
            raise damaged(name)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Refuse what Pillow cannot decode, whichever exception it says so with."""
    from PIL.Image import DecompressionBombError  # noqa: PLC0415 - an extra

    try:
        yield
    except (ImageError, MissingDependency):
        raise
    except DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        if str(error).lower().startswith(("unknown ", "unsupported ")):
            raise unsupported(name, "a picture of this kind") from error
        raise damaged(name) from error


def _opened(data: bytes, kind: str, name: str) -> Image.Image:
    """Read the header by the format's own reader: ``Image.open`` warns on standard error."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if kind == "HEIF":
        try:
            from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingDependency(f"{name}: HEIC needs a plug-in: pip install 'facekeep[heif]'") from error
        plugin: Callable[[io.BytesIO], Image.Image] = HeifImageFile
        return plugin(io.BytesIO(data))
    Image.init()
    if kind not in Image.OPEN:
        raise unsupported(name, kind)
    if kind == "TIFF":
        _quiet_libtiff()
    return Image.OPEN[kind][0](io.BytesIO(data), "")


@cache
def _quiet_libtiff() -> None:
    """Have libtiff write no errors to descriptor 2, for the process. Pillow raises them all the same."""
    pillow = find_spec("PIL._imaging")
    with suppress(AttributeError, OSError):  # no libtiff, or one that is not reached
        ctypes.CDLL(pillow.origin if pillow else None).TIFFSetErrorHandler(None)


def _pixels(image: Image.Image, source: Source, name: str) -> Pixels:
    """Upright, small and in sRGB what was decoded."""
    _check_size(*image.size, name)
    if not source.kind and getattr(image, "is_animated", False) and image.format not in _FIRST_FRAME:
        raise several(name)
    with _refusals(name), _strict():
        exif = image.info.get("exif") if source.exif is None else source.exif
        icc = image.info.get("icc_profile") if source.icc is None else source.icc
        flat = _in_srgb(_shrunk(_flat(image, source, name)), icc)
        turn = orientation(exif) if isinstance(exif, bytes) else 1
        return np.ascontiguousarray(_upright(flat, turn), np.uint8)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > LIMITS.image_pixels:
        raise _too_large(name)


def _too_large(name: str) -> ImageError:
    return ImageError(
        f"{name}: more than {LIMITS.image_pixels // 10**6} megapixels",
        reason="too_large",
        next="save the photograph smaller; 1,000 pixels are enough",
    )


def _flat(image: Image.Image, source: Source, name: str) -> Image.Image:
    """Return it as RGB, L or CMYK; what is transparent becomes white: who cannot be seen is not found."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if not image.has_transparency_data and (
        image.mode in _WORDS or (image.mode == "I" and image.format == "PPM")
    ):
        words = np.asarray(image).astype(np.int64)  # Pillow's own conversion clips at 255
        words = _WORD - words if source.inverted else words
        return Image.fromarray(np.rint(words * (255 / _WORD)).astype(np.uint8))
    if image.mode not in _DIRECT:
        raise unsupported(name, f"a picture with pixels of the kind {image.mode!r}")
    if not image.has_transparency_data:
        return image if image.mode in _SPACES else image.convert("L" if image.mode == "1" else "RGB")
    seen = image.convert(_DIVIDED.get(image.mode, image.mode)).convert("RGBA")
    if seen.getchannel("A").getextrema() == (0, 0):
        raise ImageError(f"{name}: fully transparent", reason="transparent")
    whole = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return whole.convert("L" if image.mode in _GREYS else "RGB")  # as its colour profile counts


def _in_srgb(image: Image.Image, icc: object) -> Image.Image:
    """Convert by the colour profile. One that is damaged, or for other colours, counts as none."""
    from PIL import ImageCms  # noqa: PLC0415 - an extra

    if isinstance(icc, bytes) and 0 < len(icc) <= LIMITS.image_profile_bytes:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if profile.profile.xcolor_space.strip() == _SPACES[image.mode]:
                srgb = ImageCms.createProfile("sRGB")
                done = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
                return image if done is None else done
        except (OSError, ImageCms.PyCMSError):
            pass
    return image.convert("RGB")


def _upright(flat: Image.Image, number: int) -> Image.Image:
    """Turn it as its EXIF orientation says (tag 0x0112); detectors look for upright faces only."""
    from PIL.Image import Transpose  # noqa: PLC0415 - an extra

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(number)
    return flat if turn is None else flat.transpose(turn)


def _shrunk(image: Image.Image) -> Image.Image:
    from PIL.Image import Resampling  # noqa: PLC0415 - an extra

    scale = LIMITS.image_side / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Resampling.LANCZOS)
    return image
