"""Ways to take out of a photograph what tells a person, and changes that leave it what it is.

Both map a name to a function from uint8 RGB (h, w, 3) to the same. Sizes are for pictures of
250 pixels with a face of about 100 in their middle, as in LFW.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageOps

Pixels = npt.NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]


def pillow(change: Callable[[Image.Image], Image.Image]) -> Change:
    return lambda pixels: np.asarray(change(Image.fromarray(pixels)).convert("RGB"))


def table(change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Change:
    """Each channel through one table; the values are 0 to 1."""
    found = np.rint(255 * np.clip(change(np.arange(256) / 255), 0, 1)).astype(np.uint8)
    return lambda pixels: found[pixels]


def levels(count: int) -> Change:
    return table(lambda x: np.floor(np.minimum(x * count, count - 1)) / (count - 1))


def grey(change: Change) -> Change:
    return lambda pixels: change(np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")))


def jpeg(quality: int, pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def reduced(share: float, up: Image.Resampling, pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    small = [max(1, round(side * share)) for side in image.size]
    return np.asarray(image.resize((small[0], small[1]), Image.Resampling.BOX).resize(image.size, up))


def noise(sigma: float, pixels: Pixels) -> Pixels:
    added = np.random.default_rng(int(pixels.sum())).normal(0, sigma, pixels.shape)
    return np.clip(pixels + added, 0, 255).astype(np.uint8)


def specks(share: float, pixels: Pixels) -> Pixels:
    generator = np.random.default_rng(int(pixels.sum()))
    hit = generator.random(pixels.shape[:2]) < share
    out = pixels.copy()
    out[hit] = np.where(generator.random(int(hit.sum())) < 0.5, 0, 255)[:, None]
    return out


def moved(length: int, pixels: Pixels, axis: int) -> Pixels:
    """Motion of the camera over ``length`` pixels."""
    rolled = [np.roll(pixels.astype(np.float64), step - length // 2, axis) for step in range(length)]
    return np.asarray(np.mean(rolled, axis=0), np.uint8)


def covered(top: int, bottom: int, left: int, right: int, pixels: Pixels) -> Pixels:
    out = pixels.copy()
    out[top:bottom, left:right] = 0
    return out


def one_channel(channel: int, pixels: Pixels) -> Pixels:
    out = np.zeros_like(pixels)
    out[:, :, channel] = pixels[:, :, channel]
    return out


def sketch(image: Image.Image) -> Image.Image:
    plain = image.convert("L")
    soft = np.asarray(ImageOps.invert(plain).filter(ImageFilter.GaussianBlur(5)), np.float64)
    dodged = np.asarray(plain, np.float64) * 255 / np.maximum(255 - soft, 1)
    return Image.fromarray(np.minimum(dodged, 255).astype(np.uint8))


def halftone(pixels: Pixels) -> Pixels:
    y, x = np.indices(pixels.shape[:2])
    screen = 127.5 + 63.75 * (np.cos(2 * np.pi * x / 5) + np.cos(2 * np.pi * y / 5))
    plain = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    return np.repeat(np.where(plain > screen, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)


def median_cut(image: Image.Image) -> Image.Image:
    plain = np.asarray(image.convert("L"))
    return Image.fromarray(np.where(plain > np.median(plain), 255, 0).astype(np.uint8))


def stack(*changes: Change) -> Change:
    def run(pixels: Pixels) -> Pixels:
        for each in changes:
            pixels = each(pixels)
        return pixels

    return run


DEGRADATIONS: Final[dict[str, Change]] = {
    "1 bit, threshold": grey(levels(2)),
    "1 bit, at the median": pillow(median_cut),
    "1 bit, dithered": pillow(lambda image: image.convert("1")),
    "1 bit a channel": levels(2),
    "halftone": halftone,
    **{f"{n} grey levels": grey(levels(n)) for n in (3, 4, 6, 8, 16)},
    **{f"posterised to {n} levels": levels(n) for n in (3, 4, 6, 8)},
    **{f"{n} colours": pillow(lambda image, n=n: image.quantize(n)) for n in (2, 3, 4, 8, 16)},  # type: ignore[misc]
    "web palette": pillow(lambda image: image.convert("P", palette=Image.Palette.WEB)),
    **{
        f"blur, sigma {s}": pillow(lambda image, s=s: image.filter(ImageFilter.GaussianBlur(s)))  # type: ignore[misc]
        for s in (1.5, 2, 3, 4, 5, 7, 10)
    },
    **{
        f"box blur, {2 * r + 1} px": pillow(lambda image, r=r: image.filter(ImageFilter.BoxBlur(r)))  # type: ignore[misc]
        for r in (3, 5, 7)
    },
    **{f"moved {n} px across": partial(moved, n, axis=1) for n in (7, 11, 15, 21)},
    **{f"moved {n} px upwards": partial(moved, n, axis=0) for n in (7, 11, 15, 21)},
    **{
        f"median of {n} px": pillow(lambda image, n=n: image.filter(ImageFilter.MedianFilter(n)))  # type: ignore[misc]
        for n in (5, 7, 11, 15)
    },
    **{
        f"face of {n} px, bicubic": partial(reduced, n / 100, Image.Resampling.BICUBIC)
        for n in (10, 12, 16, 20, 24, 32)
    },
    **{
        f"face of {n} px, pixels": partial(reduced, n / 100, Image.Resampling.NEAREST)
        for n in (10, 12, 16, 20, 24, 32)
    },
    **{f"JPEG quality {q}": partial(jpeg, q) for q in (1, 2, 3, 5, 7, 10, 20)},
    **{f"noise, sigma {s}": partial(noise, s) for s in (20, 40, 80, 120)},
    **{f"specks, {round(100 * s)} %": partial(specks, s) for s in (0.1, 0.3, 0.5)},
    **{f"gamma {g}": table(lambda x, g=g: x**g) for g in (0.1, 0.2, 0.4, 3, 5, 8)},  # type: ignore[misc]
    **{f"contrast x {c}": table(lambda x, c=c: 0.45 + c * (x - 0.45)) for c in (0.03, 0.1, 0.2, 3, 6, 12)},  # type: ignore[misc]
    **{f"light x {c}": table(lambda x, c=c: x * c) for c in (0.05, 0.1, 0.2, 2.5, 4)},  # type: ignore[misc]
    "washed out": table(lambda x: 0.8 + 0.2 * x),
    "inverted": table(lambda x: 1 - x),
    "inverted grey": grey(table(lambda x: 1 - x)),
    "solarised": table(lambda x: np.where(x < 0.5, x, 1 - x)),
    "grey": grey(table(lambda x: x)),
    **{f"{word} channel alone": partial(one_channel, n) for n, word in enumerate(("red", "green", "blue"))},
    "red and blue swapped": lambda pixels: np.ascontiguousarray(pixels[:, :, ::-1]),
    "hue turned by half": pillow(
        lambda image: Image.merge(
            "HSV",
            [
                image.convert("HSV").getchannel(0).point(lambda v: (v + 128) % 256),
                *image.convert("HSV").split()[1:],
            ],
        ).convert("RGB")
    ),
    "edges": pillow(lambda image: image.filter(ImageFilter.FIND_EDGES)),
    "edges, inverted": pillow(
        lambda image: ImageOps.invert(image.convert("L").filter(ImageFilter.FIND_EDGES))
    ),
    "emboss": pillow(lambda image: image.filter(ImageFilter.EMBOSS)),
    "contour": pillow(lambda image: image.filter(ImageFilter.CONTOUR)),
    "sketch": pillow(sketch),
    "high pass": pillow(
        lambda image: ImageChops.subtract(image, image.filter(ImageFilter.GaussianBlur(3)), 1, 128)
    ),
    "equalised": pillow(ImageOps.equalize),
    "eyes covered": partial(covered, 98, 124, 75, 175),
    "left half covered": partial(covered, 0, 250, 0, 125),
    "right half covered": partial(covered, 0, 250, 125, 250),
    "mouth and nose covered": partial(covered, 128, 200, 75, 175),
    "blur and 4 grey levels": stack(
        pillow(lambda image: image.filter(ImageFilter.GaussianBlur(2))), grey(levels(4))
    ),
    "dark and noisy": stack(table(lambda x: x * 0.1), partial(noise, 8), table(lambda x: x * 8)),
    "blur and noise": stack(
        pillow(lambda image: image.filter(ImageFilter.GaussianBlur(4))), partial(noise, 20)
    ),
    "JPEG quality 5 twice, shifted": stack(
        partial(jpeg, 5), lambda pixels: np.roll(pixels, 3, (0, 1)), partial(jpeg, 5)
    ),
    "1 bit and blur": stack(grey(levels(2)), pillow(lambda image: image.filter(ImageFilter.GaussianBlur(2)))),
    "dithered and reduced": stack(
        pillow(lambda image: image.convert("1")), partial(reduced, 0.5, Image.Resampling.BICUBIC)
    ),
}

ORDINARY: Final[dict[str, Change]] = {
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "smaller": pillow(lambda image: image.resize((160, 160), Image.Resampling.LANCZOS)),
    "larger": pillow(lambda image: image.resize((400, 400), Image.Resampling.BICUBIC)),
    "turned": pillow(lambda image: image.rotate(7, Image.Resampling.BICUBIC)),
    "darker, JPEG": stack(table(lambda x: x * 0.7), partial(jpeg, 60)),
    "brighter, smaller": stack(
        table(lambda x: np.minimum(x * 1.25, 1)),
        pillow(lambda image: image.resize((200, 200), Image.Resampling.BILINEAR)),
    ),
    "grey": grey(table(lambda x: x)),
    "warmer": lambda pixels: np.clip(pixels * np.array([1.15, 1.0, 0.8]), 0, 255).astype(np.uint8),
    "cooler, softer": stack(
        lambda pixels: np.clip(pixels * np.array([0.85, 1.0, 1.15]), 0, 255).astype(np.uint8),
        table(lambda x: 0.15 + 0.75 * x),
    ),
    "sharpened": pillow(lambda image: image.filter(ImageFilter.UnsharpMask(1.5, 80, 2))),
    "a little noise": partial(noise, 5),
}

# Of aligned faces: what a sharper camera would have seen, and negatives, which detectors find few of.
SHARP: Final = pillow(lambda image: image.filter(ImageFilter.UnsharpMask(1, 300, 0)))
SHARPENED: Final[dict[str, Change]] = {
    "+sharp": pillow(lambda image: image.filter(ImageFilter.UnsharpMask(1, 150, 0))),
    "+sharper": SHARP,
    "+sharpest": pillow(lambda image: image.filter(ImageFilter.UnsharpMask(1, 450, 0))),
    "+sharp edges": pillow(lambda image: image.filter(ImageFilter.UnsharpMask(2, 130, 0))),
    "+sharp grain": stack(SHARP, partial(noise, 3)),
    "+sharp, JPEG": stack(SHARP, partial(jpeg, 75)),
    "+sharp, grey": stack(SHARP, grey(table(lambda x: x))),
    "+sharp, darker": stack(SHARP, table(lambda x: x * 0.7), partial(jpeg, 60)),
}
NEGATIVES: Final[dict[str, Change]] = {
    "-inverted": DEGRADATIONS["inverted"],
    "-inverted grey": DEGRADATIONS["inverted grey"],
}
