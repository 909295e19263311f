"""Photographs to RGB arrays (docs/adr/0002-extraction.md).

Whatever is not surely a whole, visible photograph of bearable size is refused with an ImageError, which names
the file but not where it lies.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from facekeep.errors import ImageError, MissingDependency
from facekeep.limits import LIMITS

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]

_FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
_FIRST_FRAME: Final = frozenset({"MPO", "HEIF"})  # the further ones are other views of the same moment
_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF: Final = frozenset({b"avif", b"avis"})
_DIRECT: Final = frozenset({"1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LA", "PA", "La", "RGBa"})
_WORD: Final = 65_535  # white in 16-bit grey
_LONGEST_NAME: Final = 80
_switches = threading.Lock()  # Pillow's are process-wide


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
            raise ImageError("an RGB array is uint8 of shape (height, width, 3)")
        if array.shape[2] != 3:  # noqa: PLR2004 - red, green, blue
            raise ImageError("an RGB array is uint8 of shape (height, width, 3)")


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
        return _shrunk(Image.fromarray(np.ascontiguousarray(image.array)))
    if isinstance(image, str | Path):
        image = _read(Path(image), name)
    if isinstance(image, bytes):
        return _decoded(image, name)
    if isinstance(image, Image.Image):
        with _refusals(name):
            return _pixels(image, name)
    raise ImageError(
        f"a photograph is a path, bytes, an RgbImage or a Pillow image, not a {type(image).__name__}",
        next="wrap an RGB array as RgbImage(array)",
    )


def _read(path: Path, name: str) -> bytes:
    """Bytes of a regular file. A named pipe would be waited for, a device never end."""
    try:
        with open(path, "rb", opener=_unwaiting) as file:  # Path.open has no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"{name}: not a file")
            data = file.read(LIMITS.image_file_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", next="check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder, not a photograph", next="name the photographs in it") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read", next="check the path and its permissions") from error
    return data


def _unwaiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decoded(data: bytes, name: str) -> Pixels:
    if not data:
        raise ImageError(f"{name}: empty")
    if len(data) > LIMITS.image_file_bytes:
        raise ImageError(f"{name}: larger than {LIMITS.image_file_bytes // 2**20} MiB")
    with _refusals(name), _opened(data, name) as image:
        return _pixels(image, name)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Refuse what Pillow cannot decode, whichever exception it says so with; hold its switches meanwhile."""
    from PIL import Image, ImageFile, UnidentifiedImageError  # noqa: PLC0415 - an extra

    with _switches, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # face_recognition sets it: half a file gave a template
        try:
            yield
        except (ImageError, MissingDependency):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(name) from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{name}: not a photograph in a known format") from error
        except Exception as error:
            raise ImageError(f"{name}: damaged or cut short") from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _opened(data: bytes, name: str) -> Image.Image:
    """Read the header. Formats are listed: some of Pillow's others start programs (EPS)."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if _is_heif(data):
        try:
            from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingDependency(f"{name}: HEIC needs a plug-in: pip install 'facekeep[heif]'") from error
        plugin: Callable[[io.BytesIO], Image.Image] = HeifImageFile
        return plugin(io.BytesIO(data))
    Image.init()
    return Image.open(io.BytesIO(data), formats=[each for each in _FORMATS if each in Image.OPEN])


def _is_heif(data: bytes) -> bool:
    """Whether the file type box (ISO/IEC 14496-12 §4.3) names HEIF, and not AVIF, which is Pillow's own."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    return bool(brands & _HEIF) and not brands & _AVIF


def _pixels(image: Image.Image, name: str) -> Pixels:
    """Decode, upright and small, what the header allows."""
    _check_size(*image.size, name)
    if getattr(image, "n_frames", 1) > 1 and image.format not in _FIRST_FRAME:
        raise ImageError(
            f"{name}: holds several pictures", next="save the one that is meant as a JPEG or PNG"
        )
    image.load()
    return _shrunk(_upright(_flat(image, name), image))


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > LIMITS.image_pixels:
        raise _too_large(name)


def _too_large(name: str) -> ImageError:
    return ImageError(
        f"{name}: more than {LIMITS.image_pixels // 10**6} megapixels",
        next="save the photograph smaller; 1,000 pixels are enough",
    )


def _flat(image: Image.Image, name: str) -> Image.Image:
    """Return it as RGB; what is transparent becomes white, so that nobody is found who cannot be seen."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if image.mode.startswith("I") and not image.has_transparency_data:
        return _from_words(image, name)
    if image.mode not in _DIRECT:
        raise ImageError(
            f"{name}: pixels of the kind {image.mode!r} are not supported", next="save it as RGB"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema() == (0, 0):
        raise ImageError(f"{name}: fully transparent")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _from_words(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey, scaled: Pillow's own conversion clips at 255, which leaves a white square."""
    from PIL import Image  # noqa: PLC0415 - an extra

    words = np.asarray(image).astype(np.int64)
    if words.min() < 0 or words.max() > _WORD:
        raise ImageError(f"{name}: pixels of more than 16 bits are not supported", next="save it as RGB")
    return Image.fromarray(np.rint(words * (255 / _WORD)).astype(np.uint8)).convert("RGB")


def _upright(flat: Image.Image, source: Image.Image) -> Image.Image:
    """Turn it as its EXIF orientation says (tag 0x0112); detectors look for upright faces only."""
    from PIL.ExifTags import Base  # noqa: PLC0415 - an extra
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
    turn = turns.get(source.getexif().get(Base.Orientation, 1))
    return flat if turn is None else flat.transpose(turn)


def _shrunk(image: Image.Image) -> Pixels:
    from PIL.Image import Resampling  # noqa: PLC0415 - an extra

    scale = LIMITS.image_side / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Resampling.LANCZOS)
    return np.ascontiguousarray(image, np.uint8)
