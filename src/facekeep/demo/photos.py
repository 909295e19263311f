"""Whose photographs the demo uses: two portraits that come with packages, or a folder the user gives."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from facekeep.errors import ImageError, MissingDependency, StoreError, UsageError

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".heic", ".heif", ".tif", ".tiff"})
_MOST: Final = 8  # photographs of one person

#: subject id -> (package, file in it). Both portraits were made by NASA or the US Navy: public domain.
PORTRAITS: Final = {
    "grace-hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "eileen-collins": ("skimage", "data/astronaut.png"),
}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the demo: the subject id, the photographs."""

    subject: str
    photos: tuple[Path, ...]


def portraits() -> list[Person]:
    """Two public portraits; raises MissingDependency. Imports neither package: they are slow to load."""
    found = []
    for subject, (package, inside) in PORTRAITS.items():
        spec = find_spec(package)
        path = Path(spec.origin).parent / inside if spec is not None and spec.origin is not None else None
        if path is None or not path.is_file():
            raise MissingDependency(
                f"the portrait that comes with {package} is not installed",
                next="pip install 'facekeep[demo]', or give photographs with --photos DIR",
            )
        found.append(Person(subject, (path,)))
    return found


def people_of(folder: Path) -> list[Person]:
    """Return the first two people of a folder: one folder a person, or one file a person; raises UsageError.

    They are called person-1 and person-2, so that no name is printed.
    """
    try:
        entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        groups = [_photos(each) for each in entries if each.is_dir()] or [
            (each,) for each in entries if _is_photo(each)
        ]
    except OSError as error:
        raise StoreError(f"{folder.name}: {error.strerror}", next="check the path after --photos") from error
    groups = [group for group in groups if group]
    if len(groups) < 2:  # noqa: PLR2004 - the story has two people
        raise UsageError(
            f"{folder.name} has photographs of fewer than two people",
            next="give a folder with one folder, or one photograph, for each of two people",
        )
    return [Person(f"person-{number}", group) for number, group in enumerate(groups[:2], 1)]


def _photos(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(each for each in folder.iterdir() if _is_photo(each)))[:_MOST]


def _is_photo(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def changed(source: Path, target: Path) -> None:
    """Write another photograph of the same face: cropped, mirrored, brighter, compressed again."""
    try:
        from PIL import Image, ImageEnhance, ImageOps  # noqa: PLC0415 - optional, and slow to load
    except ImportError:
        raise MissingDependency("the demo needs Pillow", next="pip install 'facekeep[demo]'") from None
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise ImageError("a photograph of the demo cannot be read", reason="unreadable") from None
    wide, high = image.size
    image = image.crop((wide // 25, high // 30, wide - wide // 40, high - high // 50))
    image = ImageEnhance.Brightness(ImageOps.mirror(image)).enhance(1.12)
    image.save(target, "JPEG", quality=70)


def pixels(source: Path) -> bytes:
    """Return decoded pixels of a photograph, as a careless program would store them."""
    from PIL import Image  # noqa: PLC0415 - optional, and slow to load

    with Image.open(source) as opened:
        return opened.convert("RGB").tobytes()
