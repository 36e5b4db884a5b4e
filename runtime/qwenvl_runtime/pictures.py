"""The warm-up's pictures: charts drawn on the spot, each different, so that no cache of the engine answers for it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from math import isqrt

from PIL import Image, ImageDraw, ImageFont

from qwenvl_runtime.config import MIN_PIXELS, PIXELS_PER_TOKEN

TYPICAL_PIXELS = 1024 * 1024
_SIDE = isqrt(PIXELS_PER_TOKEN)
_WIDEST = 1.5  # of the largest picture: about a sheet of paper, far from where the model refuses a shape
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def count_tokens(width: int, height: int) -> int:
    return width * height // PIXELS_PER_TOKEN


def choose_size(max_pixels: int) -> tuple[int, int]:
    """Width and height of the largest picture of at most `max_pixels` that the model takes without scaling it.

    >>> choose_size(65536), choose_size(2097152)
    ((256, 256), (1280, 1632))
    """
    tokens = max_pixels // PIXELS_PER_TOKEN
    columns = [width for width in range(1, isqrt(tokens) + 1) if tokens // width <= width * _WIDEST]
    best = max(columns, key=lambda width: (width * (tokens // width), width))
    return best * _SIDE, tokens // best * _SIDE


def choose_sizes(max_pixels: int, max_tokens: int) -> dict[str, tuple[int, int]]:
    """The warm-up's sizes by name; `max_tokens` is what the context leaves for a picture."""
    limit = max(MIN_PIXELS, min(max_pixels, max_tokens * PIXELS_PER_TOKEN))
    sizes = {
        "smallest": choose_size(MIN_PIXELS),
        "typical": choose_size(min(limit, TYPICAL_PIXELS)),
        "largest": choose_size(limit),
    }
    width, height = choose_size(max(MIN_PIXELS, limit * 5 // 8))
    # As many tokens in another shape are another size to the engine, too.
    sizes["proof"] = (width * 2, height // 2) if (width, height) in sizes.values() else (width, height)
    return sizes


def draw_png(width: int, height: int, seed: int) -> bytes:
    """A bar or line chart with a title, axes and labels; the same seed draws the same chart."""
    chance = random.Random(seed)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, height // 32))
    left, top, right, bottom = width // 10, height // 8, width - width // 20, height - height // 8
    pen.text((left, top // 3), f"Report {seed}: {chance.randrange(10**6)} units", fill="black", font=font)
    for step in range(6):
        level = bottom - (bottom - top) * step // 5
        pen.line((left, level, right, level), fill="#cccccc")
        pen.text((left // 6, level), str(20 * step), fill="black", font=font, anchor="lm")
    values = [chance.random() for _ in range(chance.randrange(4, 12))]
    chance.choice(_SERIES)(pen, values, (left, top, right, bottom), chance)
    pen.rectangle((left, top, right, bottom), outline="black")
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    return png.getvalue()


def _draw_bars(pen: ImageDraw.ImageDraw, values: list[float], box: tuple[int, ...], chance: random.Random) -> None:
    left, top, right, bottom = box
    slot = (right - left) / len(values)
    for index, value in enumerate(values):
        start = left + slot * (index + 0.15)
        shape = (start, bottom - value * (bottom - top), start + slot * 0.7, bottom)
        pen.rectangle(shape, fill=chance.choice(_COLOURS))


def _draw_line(pen: ImageDraw.ImageDraw, values: list[float], box: tuple[int, ...], chance: random.Random) -> None:
    left, top, right, bottom = box
    slot = (right - left) / len(values)
    points = [(left + slot * (index + 0.5), bottom - value * (bottom - top)) for index, value in enumerate(values)]
    pen.line(points, fill=chance.choice(_COLOURS), width=max(2, (bottom - top) // 100))


_SERIES: tuple[Callable[[ImageDraw.ImageDraw, list[float], tuple[int, ...], random.Random], None], ...] = (
    _draw_bars,
    _draw_line,
)
