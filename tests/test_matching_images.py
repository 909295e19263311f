"""Photographs that are odd, damaged, hostile, or not photographs."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from facekeep.errors import ImageError, MissingDependency
from facekeep.limits import LIMITS
from facekeep.matching import images
from facekeep.matching.images import ImageInput, RgbImage, load_rgb
from matching_help import encoded, heic

RED, GREEN, BLUE, GREY = (220, 20, 30), (20, 200, 40), (20, 30, 210), (120, 120, 120)
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def flag() -> Image.Image:
    """60 x 40, another colour in each quarter."""
    image = Image.new("RGB", (60, 40))
    for number, colour in enumerate((RED, GREEN, BLUE, GREY)):
        left, top = number % 2 * 30, number // 2 * 20
        image.paste(colour, (left, top, left + 30, top + 20))
    return image


def assert_flag(image: ImageInput, slack: int = 12) -> None:
    pixels = load_rgb(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 60, 3)
    assert pixels.flags.c_contiguous
    quarters = pixels[[10, 10, 30, 30], [15, 45, 15, 45]].astype(int)
    assert np.abs(quarters - (RED, GREEN, BLUE, GREY)).max() <= slack


def refused(image: ImageInput, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_rgb(image)
    assert "\n" not in str(caught.value)
    assert str(Path.cwd()) not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF"])
def test_formats(kind: str) -> None:
    assert_flag(encoded(flag(), kind))


def test_paths_bytes_arrays_and_pillow_images(tmp_path: Path) -> None:
    path = tmp_path / "flag.png"
    path.write_bytes(encoded(flag(), "PNG"))
    with Image.open(path) as opened:
        for image in (path, str(path), path.read_bytes(), RgbImage(np.asarray(flag())), flag(), opened):
            assert_flag(image, 0)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_followed(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 is none of the eight and means nothing
    turned = flag().transpose(UNDO[orientation]) if orientation in UNDO else flag()
    assert_flag(encoded(turned, kind, exif=exif), 30)


def test_heic() -> None:
    assert_flag(heic(flag()))


def test_heic_is_turned_once_although_both_its_own_and_the_exif_orientation_say_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = heic(flag().transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())
    assert b"irot" in data
    assert_flag(data)


def test_heic_without_its_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(flag())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingDependency, match=r"pip install 'facekeep\[heif\]'"):
        load_rgb(data)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "YCbCr"])
def test_colour_modes(mode: str) -> None:
    assert_flag(flag().convert(mode))


def test_palettes() -> None:
    assert_flag(flag().quantize(4), 0)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes(mode: str) -> None:
    pixels = load_rgb(Image.new("L", (30, 20), 255).convert(mode))
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["F", "LAB", "HSV"])
def test_other_modes_are_refused(mode: str) -> None:
    refused(Image.new(mode, (30, 20)), f"pixels of the kind '{mode}'")


@pytest.mark.parametrize(("kind", "dtype"), [("TIFF", "<u2"), ("TIFF", ">u2"), ("PNG", "<u2")])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str, dtype: str) -> None:
    ramp = np.linspace(0, 65_535, 6_000).reshape(60, 100)
    pixels = load_rgb(encoded(Image.fromarray(ramp.astype(dtype)), kind))
    assert np.abs(pixels[:, :, 0] - ramp / 257).max() <= 1


def test_sixteen_bit_grey_as_pgm() -> None:
    words = np.array([[0, 257, 32_896, 65_535]], ">u2")
    assert load_rgb(b"P5 4 1 65535\n" + words.tobytes())[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("dtype", ["<i4", "<u4", "<f4", "<i2"])
def test_numbers_of_unknown_range_are_refused(dtype: str) -> None:
    ramp = np.linspace(0, 30_000, 6_000).reshape(60, 100).astype(dtype)
    image = Image.fromarray(ramp if dtype != "<u4" else ramp.astype("<i4"))
    refused(encoded(image, "TIFF"), "not supported") if dtype != "<i2" else None
    refused(image, "pixels of the kind") if image.mode in ("I", "F") else None


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_fully_transparent(kind: str) -> None:
    unseen = flag().convert("RGBA")
    unseen.putalpha(0)
    refused(encoded(unseen, kind, **({"exact": True} if kind == "WEBP" else {})), "fully transparent")


def test_what_is_transparent_becomes_white() -> None:
    faint = flag().convert("RGBA")
    faint.putalpha(1)
    assert load_rgb(encoded(faint, "PNG")).min() >= 254
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((0, 0), 0)
    pixels = load_rgb(encoded(palette, "PNG", transparency=1))
    assert tuple(pixels[0, 0]) == RED
    assert (pixels[1:] == 255).all()


def test_half_a_file_is_refused_although_face_recognition_allowed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = encoded(noise, kind)
        load_rgb(whole)
        for share in (0.3, 0.5, 0.9):
            refused(whole[: int(len(whole) * share)], "damaged or cut short")
    whole = heic(noise)
    refused(whole[: len(whole) // 2], "damaged or cut short")
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # the program's own setting is put back


def test_a_pillow_image_not_yet_read_is_decoded_strictly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8))
    data = encoded(noise, "JPEG")
    refused(Image.open(io.BytesIO(data[: len(data) // 2])), "damaged or cut short")


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (13_000, 13_000)), "PNG")
    assert len(bomb) < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    refused(bomb, "more than 25 megapixels")
    refused(encoded(Image.new("L", (6_250, 4_001)), "PNG"), "more than 25 megapixels")


def test_no_array_is_too_large_to_be_refused() -> None:
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (6_250, 4_001, 3))
    refused(RgbImage(huge), "more than 25 megapixels")


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(LIMITS.image_file_bytes + 1)
    refused(path, "^'large.jpg': larger than 64 MiB$")


@pytest.mark.parametrize("size", [(3_000, 2_000), (2_000, 3_000), (2_000_000, 1)])
def test_large_photographs_are_shrunk(size: tuple[int, int]) -> None:
    pixels = load_rgb(Image.new("RGB", size))
    assert max(pixels.shape) == LIMITS.image_side


def test_large_arrays_are_shrunk() -> None:
    array = np.asarray(flag().resize((3_000, 2_000), Image.Resampling.NEAREST))
    assert load_rgb(RgbImage(array)).shape == (667, 1_000, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_are_refused(kind: str) -> None:
    turned = flag().transpose(Image.Transpose.ROTATE_180)
    refused(encoded(flag(), kind, save_all=True, append_images=[turned]), "several pictures")


def test_the_first_view_of_a_camera_that_stores_several() -> None:
    turned = flag().transpose(Image.Transpose.ROTATE_180)
    assert_flag(encoded(flag(), "MPO", save_all=True, append_images=[turned]), 20)


def test_no_photograph(tmp_path: Path) -> None:
    refused(b"", "the photograph: empty")
    refused(b"hello", "not a photograph in a known format")
    refused(b"\x89PNG\r\n\x1a\n", "damaged")
    refused(b"\x00\x00\x00\x18ftypheic" + bytes(99), "damaged")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a photograph")
    refused(tmp_path, "a folder")
    refused(tmp_path / "gone.jpg", "^'gone.jpg': no such file$")
    refused(tmp_path / "a\nb.jpg", r"^'a\\nb.jpg': no such file$")
    refused("a\0b", "cannot be read")
    refused(tmp_path / ("n" * 300), r"^'n{80}\.\.\.': cannot be read$")


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")
    refused("/dev/zero", "not a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(encoded(flag(), "PNG"))
    path.chmod(0)
    refused(path, "^'mine.png': cannot be read$")


@pytest.mark.parametrize("value", [None, 3, bytearray(b"x"), np.zeros((9, 9, 3), np.uint8), ["a.jpg"]])
def test_other_types(value: ImageInput) -> None:
    refused(value, "a path, bytes, an RgbImage or a Pillow image")


@pytest.mark.parametrize(
    "array",
    [np.zeros((9, 9)), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9, 3), np.uint8)],
)
def test_other_arrays(array: images.Pixels) -> None:
    with pytest.raises(ImageError, match="uint8 of shape"):
        RgbImage(array)


def test_threads_do_not_disturb_each_other() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    whole = encoded(flag(), "JPEG")
    wrong: list[object] = []

    def work() -> None:
        for _ in range(50):
            if load_rgb(whole).shape != (40, 60, 3):
                wrong.append("shape")
            try:
                wrong.append(load_rgb(whole[:-40]))
            except ImageError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert before is ImageFile.LOAD_TRUNCATED_IMAGES
