"""Files that break off, mean something else than they seem to, or would be decoded for hours."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageFile

from containers_help import chunk, grey_profile, many_scans, png, segment, tiff
from facekeep.errors import ImageError
from facekeep.limits import LIMITS
from facekeep.matching import directories, images
from facekeep.matching.containers import read
from facekeep.matching.images import load_rgb
from facekeep.matching.jpeg import Jpeg
from matching_help import encoded, heic, hopper

NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8))
OVERLAPPING = [(0x9000 + number, 7, 60_000, 8) for number in range(5_000)]  # 300 MB of 60 kB
RAMP = np.linspace(0, 65_535, 6_000).reshape(60, 100)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_rgb(data)
    return caught.value.reason


def never(_: object) -> None:
    pytest.fail("decoded")


# Half a photograph with an end


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"progressive": True, "restart_marker_rows": 1},
        {"quality": 100, "subsampling": 0, "optimize": True},
    ],
)
@pytest.mark.parametrize("image", [NOISE, hopper(), NOISE.convert("L"), NOISE.convert("CMYK")])
def test_half_a_jpeg_with_an_end_marker(image: Image.Image, options: dict[str, int]) -> None:
    whole = encoded(image, "JPEG", **options)
    load_rgb(whole)
    for size in (int(len(whole) * 0.5), int(len(whole) * 0.8), len(whole) - 40):
        assert reason(whole[:size] + b"\xff\xd9") == "damaged"


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 3}, {"progressive": True}])
def test_a_jpeg_that_lacks_a_few_bytes_is_refused_unless_its_pixels_are_the_same(
    options: dict[str, int],
) -> None:
    whole = encoded(NOISE, "JPEG", **options)
    pixels = load_rgb(whole)
    for size in range(len(whole) - 60, len(whole) - 2):
        cut = whole[:size] + b"\xff\xd9"
        try:
            load_rgb(cut)
        except ImageError:
            continue
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(cut))), pixels)


def test_a_progressive_jpeg_without_its_last_scans() -> None:
    whole = encoded(hopper(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert reason(whole[:last] + b"\xff\xd9") == "damaged"


def test_a_jpeg_of_half_the_rows() -> None:
    data = bytearray(encoded(NOISE, "JPEG"))
    struct.pack_into(">H", data, data.index(b"\xff\xc0") + 5, 120)
    assert reason(bytes(data)) == "damaged"


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_compressed_data_ends_early(interlaced: bool) -> None:
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)] if interlaced else [(8, 8)]
    rows = b"".join((b"\0" + b"\x80" * across) * down for down, across in passes)
    assert (load_rgb(png(8, rows, interlaced=interlaced)) == 128).all()
    assert reason(png(8, rows[:-9], interlaced=interlaced)) == "damaged"
    assert reason(png(8, b"", interlaced=interlaced)) == "damaged"


def test_a_gif_whose_data_ends_early() -> None:
    data = bytearray(encoded(NOISE.quantize(256), "GIF"))
    at = data.index(b",", 13 + 768)
    struct.pack_into("<H", data, 8, 120)
    struct.pack_into("<H", data, at + 7, 120)
    assert reason(bytes(data)) == "damaged"


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_without_its_last_strips(compression: str) -> None:
    data = bytearray(encoded(NOISE, "TIFF", compression=compression))
    entry = directories.first(bytes(data)).entries[257]
    struct.pack_into("<H" if entry[2] == 3 else "<I", data, bytes(data).index(entry) + 8, 120)
    assert reason(bytes(data)) == "damaged"


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_whose_sizes_were_mended(lossless: bool) -> None:
    whole = encoded(NOISE, "WEBP", lossless=lossless)
    half = bytearray(whole[: len(whole) // 4 * 2])
    struct.pack_into("<I", half, 4, len(half) - 8)
    struct.pack_into("<I", half, 16, len(half) - 20)
    assert reason(bytes(half)) == "damaged"


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_an_extent_that_was_shortened(kind: str) -> None:
    file = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(NOISE).save(file, quality=95)
    else:
        NOISE.save(file, kind)
    data = bytearray(file.getvalue())
    size = len(data) - data.index(b"mdat") - 4
    struct.pack_into(">I", data, data.index(struct.pack(">I", size), data.index(b"iloc")), size // 2)
    assert reason(bytes(data)) == "damaged"


# What pixels mean


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "bool"])
def test_a_tiff_in_which_white_is_zero(dtype: str, white_is_zero: bool, compression: str) -> None:
    array = {"u1": RAMP // 257, "bool": RAMP > 32_768}.get(dtype, RAMP).astype(dtype)
    data = bytearray(encoded(Image.fromarray(array), "TIFF", compression=compression))
    found = directories.first(bytes(data))
    at = bytes(data).index(found.entries[262])
    struct.pack_into(found.order + "H", data, at + 8, 1 - white_is_zero)
    pixels = load_rgb(bytes(data))[:, :, 0].astype(int)
    shown = 255 - pixels if white_is_zero else pixels
    meant = 255 * (RAMP > 32_768) if dtype == "bool" else RAMP / 257
    assert np.abs(shown - meant).max() <= 1


@pytest.mark.parametrize(
    "tag_and_value", [(262, 6), (262, 8), (262, 32_803), (339, 2), (339, 3), (284, 2), (258, 12)]
)
def test_a_tiff_of_another_meaning(tag_and_value: tuple[int, int]) -> None:
    fields = {256: 8, 257: 8, 258: 16, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 128, 284: 1, 339: 1}
    good = tiff([(tag, 3, 1, value) for tag, value in fields.items()]).ljust(400, b"\x80")
    load_rgb(good)
    fields.update([tag_and_value])
    assert (
        reason(tiff([(tag, 3, 1, value) for tag, value in fields.items()]).ljust(400, b"\x80"))
        == "unsupported"
    )


def test_a_jpeg_in_a_tiff_and_a_fax() -> None:
    assert reason(encoded(NOISE, "TIFF", compression="jpeg")) == "unsupported"
    assert reason(encoded(NOISE.convert("1"), "TIFF", compression="group4")) == "unsupported"


def test_ink_of_which_nobody_says_how_it_is_counted() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG")
    assert load_rgb(data).max() <= 2
    at = data.index(b"Adobe") - 4
    assert reason(data[:at] + data[at + 16 :]) == "unsupported"


def test_jpeg_2000() -> None:
    assert reason(encoded(NOISE, "JPEG2000")) == "unsupported"
    assert reason(encoded(NOISE, "JPEG2000", no_jp2=True)) == "unsupported"


def test_colours_that_were_multiplied_by_alpha() -> None:
    for mode, divided in (("La", "LA"), ("RGBa", "RGBA")):
        faint = Image.new(divided, (9, 9), (100,) * (len(divided) - 1) + (0,)).convert(mode)
        faint.paste(Image.new(divided, (9, 9), (200,) * (len(divided) - 1) + (255,)).convert(mode), (4, 0))
        assert load_rgb(faint)[0, [0, 8], 0].tolist() == [255, 200]


def swapped() -> bytes:
    """Profile in which red and green have changed places; it stands in no file that was made for people."""
    whole = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = whole.index(b"rXYZ"), whole.index(b"gXYZ")
    whole[red : red + 4], whole[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(whole)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colour_profiles_are_followed(kind: str) -> None:
    data = encoded(Image.new("RGB", (32, 32), (250, 5, 5)), kind, icc_profile=swapped())
    red, green, blue = (int(each) for each in load_rgb(data)[9, 9])
    assert (red < 60, green > 200, blue < 60) == (True, True, True)
    assert load_rgb(Image.open(io.BytesIO(data)))[9, 9, 1] > 200


@pytest.mark.parametrize("profile", [b"no profile", b"\0" * 5_000_000, swapped()[:300]])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_that_is_none_is_ignored(kind: str, profile: bytes) -> None:
    plain = Image.new("RGB", (32, 32), (250, 5, 5))
    pixels = load_rgb(
        encoded(plain, kind, icc_profile=profile, **({"lossless": True} if kind == "WEBP" else {}))
    )
    assert (pixels == (250, 5, 5)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "transparent"])
def test_profiles_of_grey_are_followed(mode: str) -> None:
    """Linear light: 50 of 255 are shown as 122, with transparency or without."""
    options: dict[str, object] = {"transparency": 9} if mode == "transparent" else {}
    image = Image.new("L", (9, 9), 50).convert("LA" if mode == "LA" else "L")
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 50 * 257, np.uint16))
    data = encoded(image, "PNG", icc_profile=grey_profile(1), **options)
    assert np.abs(load_rgb(data).astype(int) - 122).max() <= 1


def test_a_profile_for_other_colours_is_ignored() -> None:
    assert (load_rgb(encoded(Image.new("L", (9, 9), 77), "PNG", icc_profile=swapped())) == 77).all()


# EXIF says how the picture stands, or nothing


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0" + tiff(OVERLAPPING)[:2_000]]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_says_nothing_in_any_format(kind: str, exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(encoded(NOISE, kind, exif=exif)).shape == (60, 80, 3)


@pytest.mark.parametrize("exif", [b"no EXIF!", b"II*\0\xff\xff\0\0", b"II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_exif_that_cannot_be_read_says_nothing_where_encoders_check_it(kind: str, exif: bytes) -> None:
    turned = b"Exif\0\0" + tiff([(0x0112, 3, 1, 6), (0x9000, 3, 1, 1)])
    data = encoded(NOISE, kind, exif=turned) if kind == "AVIF" else heic(NOISE, exif=turned)
    at = data.rindex(b"II*\0\x08\0\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(data[:at] + exif + data[at + len(exif) :]).shape == (80, 60, 3)  # a property turns it


@pytest.mark.parametrize("brand", [b"avif", b"heic"])
def test_a_file_that_is_full_of_directories(brand: bytes) -> None:
    """Read once: for each of them once more, it would take weeks."""
    assert reason(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1miaf" + b"II*\0" * 2**22) == "damaged"


def test_the_first_exif_of_a_jpeg_counts() -> None:
    turned = segment(0xE1, b"Exif\0\0" + tiff([(0x0112, 3, 1, 6)]))
    upright = segment(0xE1, b"Exif\0\0" + tiff([(0x0112, 3, 1, 1)]))
    data = encoded(NOISE, "JPEG")
    assert load_rgb(data[:2] + turned + upright + data[2:]).shape == (80, 60, 3)
    assert load_rgb(data[:2] + upright + turned + data[2:]).shape == (60, 80, 3)


# Work is bounded before anything is decoded


@pytest.mark.parametrize("scans", [LIMITS.image_scans, 8_000])
def test_a_jpeg_of_many_scans_is_not_decoded(scans: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    assert reason(many_scans(800, scans)) == "too_large"


def test_scans_are_counted_and_a_few_are_fine() -> None:
    load_rgb(many_scans(80, LIMITS.image_scans - 1))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + segment(0xFE, b"") * 200_000 + encoded(NOISE, "JPEG")[2:],
        png(8, b"\0" * 72, chunk(b"tIME", bytes(7)) * 200_000),
        b"GIF89a" + bytes(7) + (b"!\xfe" + b"\1x" * 500_000 + b"\0") + b";",
    ],
    ids=["comments in a JPEG", "chunks in a PNG", "comments in a GIF"],
)
def test_a_file_of_very_many_parts_is_not_opened(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_opened", never)
    assert reason(data) == "too_large"


def bloated(kind: str) -> bytes:
    """Photograph with EXIF of 5,000 entries, each of which names the same 60 kB."""
    exif = b"Exif\0\0" + tiff(OVERLAPPING, bytes(8))
    if kind == "AVIF":
        plain = b"Exif\0\0" + tiff([(0x9000, 3, 1, 1)], bytes(len(exif) - 32))
        return encoded(NOISE, kind, exif=plain).replace(plain[6:], exif[6:])
    data = encoded(NOISE, kind, **({} if kind == "JPEG" else {"exif": exif}))
    if kind == "JPEG":
        return data[:2] + segment(0xE1, exif[:65_533]) + segment(0xE1, b"Exif\0\0" + bytes(60_000)) + data[2:]
    return data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_directories_whose_entries_overlap_are_not_copied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_all(*_: object) -> None:
        pytest.fail("read by Pillow")

    if kind == "TIFF":
        data = encoded(NOISE, kind)
        plain = directories.first(data)
        rows = [struct.unpack("<HHII", row) for row in plain.entries.values()]
        start = len(tiff([*rows, *OVERLAPPING]))
        moved = [(t, k, n, v + start if t == 273 or n * (1 + (k > 2)) > 4 else v) for t, k, n, v in rows]
        data = tiff([*moved, *OVERLAPPING], data)
        assert len(read(data, "x").data) < len(data) + 400
    else:
        data = bloated(kind)
        assert data.count(tiff(OVERLAPPING)[10:30]) == 1
        monkeypatch.setattr(Image.Exif, "load", read_all)
    try:
        load_rgb(data)
    except ImageError as error:
        assert (kind, error.reason) == ("TIFF", "damaged")  # noqa: PT017 - either is right


def eight_by_eight(inside: bytes) -> bytes:
    """Grey JPEG with further bytes at the start of its only scan."""
    data = encoded(Image.new("L", (8, 8)), "JPEG")
    at = data.index(b"\xff\xda")
    at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + inside + data[at:]


def test_a_jpeg_of_very_many_restarts_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Junk goes before each of them: 64 MiB of restarts would be three gigabytes."""
    monkeypatch.setattr(images, "_opened", never)
    assert reason(eight_by_eight(b"\xff\xd0" * (LIMITS.image_parts + 1))) == "too_large"


@pytest.mark.parametrize("end", [b"\0", b"\xff\xd0"])
def test_fill_bytes_are_not_handed_on(end: bytes) -> None:
    """libjpeg reads them anew with each buffer: 60 MB of them took six minutes."""
    found = Jpeg.read(eight_by_eight(b"\xff" * 10**6 + end))
    assert len(found.data) < 1_000
    assert len(found.control) < 1_000
    between = encoded(NOISE, "JPEG", restart_marker_blocks=3).replace(b"\xff\xd1", b"\xff" * 9 + b"\xd1")
    np.testing.assert_array_equal(load_rgb(between), load_rgb(between.replace(b"\xff" * 9, b"\xff")))
    filled = encoded(NOISE, "JPEG").replace(b"\xff\xda", b"\xff" * 99 + b"\xda")
    np.testing.assert_array_equal(
        load_rgb(filled[:-2] + b"\xff" * 99 + b"\xd9"), load_rgb(encoded(NOISE, "JPEG"))
    )


def test_a_png_of_two_headers() -> None:
    """One has its rows, the other is what the decoder takes."""
    rows = b"\0\x80" * 2
    small = png(2, b"".join([b"\0\x80\x80"] * 2))
    header = small[8:33]
    assert reason(small[:8] + header + png(900, rows)[8:]) == "damaged"
    assert reason(png(8, b"\0" * 72, header)) == "damaged"


def test_whole_files_of_a_kind_that_pillow_does_not_read_are_not_called_damaged() -> None:
    masks = struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    bitmap = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0) + masks + bytes(64)
    assert reason(b"BM" + struct.pack("<IHHI", 14 + len(bitmap), 0, 0, 66) + bitmap) == "unsupported"
    fields = {256: 8, 257: 8, 258: 8, 259: 1, 262: 0, 273: 200, 277: 2, 278: 8, 279: 128, 338: 2}
    assert reason(tiff([(tag, 3, 1, value) for tag, value in fields.items()]).ljust(400)) == "unsupported"


def test_a_frame_of_a_gif_that_is_larger_than_its_screen() -> None:
    data = bytearray(encoded(NOISE.quantize(64), "GIF"))
    at = data.index(b",", 13)
    struct.pack_into("<HHHH", data, at + 1, 60_000, 60_000, 60_000, 60_000)
    assert reason(bytes(data)) == "too_large"


def test_texts_and_profiles_that_swell_are_not_inflated() -> None:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    data = png(8, b"\0" * 72, text, profile)
    assert text not in read(data, "x").data
    found = read(data, "x").icc
    assert found is not None
    assert len(found) <= LIMITS.image_profile_bytes + 1
    load_rgb(data)


def test_a_comment_of_netpbm_is_not_read_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(b"P6 #" + b"x" * 10_000 + b"\n1 1 255\n\1\2\3") == "unsupported"
    assert load_rgb(b"P6 #x\n 1 # y\n1 255\n\1\2\3").tolist() == [[[1, 2, 3]]]
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    for data in (b"P3 1 1 255\n1 2 3\n", b"P5 2 1 100\n\1\2", b"P4 8 1\n\0", b"P2 1 1 255 3"):
        assert reason(data) in ("unsupported", "not_a_photograph")


def test_runs_that_pillow_decodes_in_python_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 9, 9, 1, 8, 1, 20, 0, 0, 256, 0)
    data = b"BM" + struct.pack("<IHHI", 1_098, 0, 0, 1_078) + header + bytes(1_024) + bytes(20)
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    assert reason(data) == "unsupported"


def test_a_tile_larger_than_the_picture() -> None:
    fields = {256: 8, 257: 8, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 300, 325: 64}
    assert reason(tiff([(tag, 3, 1, value) for tag, value in fields.items()]).ljust(400)) == "too_large"


def test_no_lock_is_held_while_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decode: Callable[[ImageFile.ImageFile], object] = ImageFile.ImageFile.load
    begun: list[ImageFile.ImageFile] = []

    def decoding(image: ImageFile.ImageFile) -> object:
        begun.append(image)
        if len(begun) == 1:
            assert not images._strict._lock.locked()
            load_rgb(encoded(NOISE, "BMP"))  # as another thread would
            assert not ImageFile.LOAD_TRUNCATED_IMAGES
        return decode(image)

    data = encoded(NOISE, "PNG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoding)
    load_rgb(data)
    assert len(begun) > 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_switch_that_another_thread_turns_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    decode: Callable[[ImageFile.ImageFile], object] = ImageFile.ImageFile.load

    def decoding(image: ImageFile.ImageFile) -> object:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        return decode(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoding)
    assert reason(encoded(NOISE, "PNG")) == "damaged"


def test_no_decoder_and_no_extractor_writes_to_standard_error(shared_data: Path) -> None:
    """Neither the library's caller nor another thread finds there what is not theirs."""
    command = [sys.executable, "-W", "always", str(Path(__file__).parent / "silence_help.py")]
    models = str(shared_data.parent / "models")
    ran = subprocess.run([*command, models], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    kinds = ("TIFF", "JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "AVIF", "HEIF")
    assert all(f"'{kind} refused'" in ran.stdout for kind in (*kinds, "dlib-resnet/1", "sface/2021dec"))


@pytest.mark.parametrize(
    "entry", [(256, 3, 2), (257, 12, 1), (259, 3, 2), (277, 1, 1), (278, 4, 3), (273, 4, 60_000)]
)
def test_a_tiff_in_which_two_readers_would_see_two_numbers(entry: tuple[int, int, int]) -> None:
    fields = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    rows = [(tag, 3, 1, value) for tag, value in fields.items()]
    load_rgb(tiff(rows).ljust(400, b"\x80"))
    rows = [(*entry, row[3]) if row[0] == entry[0] else row for row in rows]
    assert reason(tiff(rows).ljust(400, b"\x80")) == "damaged"


def test_the_command_keeps_standard_error_to_itself() -> None:
    code = (
        "import os, sys, warnings\n"
        "from facekeep.cli import app\n"
        "def noisy():\n"
        "    os.write(2, b'LZWDecode: Strip 0 not terminated')\n"
        "    warnings.warn('Corrupt EXIF data')\n"
        "    print('ours', file=sys.stderr)\n"
        "app.root.main = noisy\n"
        "app.main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "ours\n"


def test_a_jpeg_is_handed_on_without_what_is_not_the_picture() -> None:
    data = encoded(hopper(), "JPEG", comment=b"hello", exif=b"Exif\0\0" + tiff([(0x0112, 3, 1, 1)]))
    found = Jpeg.read(data + data)
    assert b"hello" not in found.data
    assert b"Exif" not in found.data
    assert found.data.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(load_rgb(found.data), load_rgb(data))
