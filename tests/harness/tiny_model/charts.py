"""Bar charts by seed, as PIL pictures: drawn with PIL (fast, for training) or by matplotlib (what people really send).

The same seed always gives the same picture. Training draws only from `TRAINING`, so any seed in `UNSEEN` is a chart
that the model has never met.
"""

import base64
import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("#d62728", "#ff0000", "#e41a1c", "#c0392b", "#ef5350"),
    "green": ("#2ca02c", "#008000", "#4daf4a", "#27ae60", "#66bb6a"),
    "blue": ("#1f77b4", "#0000ff", "#377eb8", "#2980b9", "#42a5f5"),
    "orange": ("#ff7f0e", "#ffa500", "#ff8c00", "#f39c12", "#fb8c00"),
    "purple": ("#9467bd", "#800080", "#984ea3", "#8e44ad", "#ab47bc"),
}
QUESTION = "Which bar is highest?"
UNSEEN = range(1_000_000)
TRAINING = range(1_000_000, 1_000_000_000)

_MIN_LEAD = 0.08
_CATEGORIES = ("Q1 Q2 Q3 Q4", "A B C D", "2021 2022 2023 2024", "north south east west", "mon tue wed thu")
_TITLES = ("", "", "Sales", "Revenue by quarter", "Results", "Output 2024", "Units per site")
_PAPER = ("#ffffff", "#ffffff", "#ffffff", "#fafafa", "#f0f0f0", "#eaeaf2", "#fffbe6")


@dataclass(frozen=True)
class Bars:
    """What a chart shows, apart from who draws it: one colour name and one shade per bar, heights from 0 to 1."""

    names: tuple[str, ...]
    shades: tuple[str, ...]
    heights: tuple[float, ...]

    @property
    def highest(self) -> str:
        return self.names[self.heights.index(max(self.heights))]


@dataclass(frozen=True)
class Chart:
    """A picture, a question about it and the one right answer."""

    image: Image.Image
    answer: str
    question: str = QUESTION

    def png(self) -> bytes:
        return _encode(self.image, "PNG")

    def jpeg(self, quality: int = 85) -> bytes:
        return _encode(self.image, "JPEG", quality=quality)

    def data_url(self) -> str:
        return data_url(self.png())


def data_url(picture: bytes) -> str:
    """The picture (PNG or JPEG) as the OpenAI API takes it in `image_url.url`."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def draw(seed: int, width: int | None = None, height: int | None = None) -> Chart:
    """A chart drawn by PIL; its size follows from the seed unless given."""
    rng = random.Random(f"pil {seed}")
    bars = _choose_bars(rng)
    size = (width or rng.randrange(224, 481), height or rng.randrange(192, 385))
    return Chart(_draw_bars(bars, size, rng), bars.highest)


def draw_matplotlib(seed: int, width: int | None = None, height: int | None = None) -> Chart:
    """A chart drawn by matplotlib; its size in pixels follows from the seed unless given."""
    rng = random.Random(f"matplotlib {seed}")
    bars = _choose_bars(rng)
    size = (width or rng.randrange(240, 641), height or rng.randrange(192, 481))
    return Chart(_plot_bars(bars, size, rng), bars.highest)


def blank(chart: Chart) -> Chart:
    """The same question over a picture of the same size that shows nothing."""
    return Chart(Image.new("RGB", chart.image.size, "white"), chart.answer, chart.question)


def decode(picture: bytes) -> Image.Image:
    """The pixels of an encoded picture, as whoever receives it sees them."""
    return Image.open(io.BytesIO(picture)).convert("RGB")


def _choose_bars(rng: random.Random) -> Bars:
    count = rng.randrange(2, 5)
    names = tuple(rng.sample(sorted(COLOURS), count))
    heights = [rng.uniform(0.05, 1 - _MIN_LEAD) for _ in names]
    heights[rng.randrange(count)] = 1.0
    runner_up = sorted(heights)[-2]
    if rng.random() < 0.3:
        heights[heights.index(runner_up)] = 1 - _MIN_LEAD
    return Bars(names, tuple(_choose_shade(rng, name) for name in names), tuple(heights))


def _choose_shade(rng: random.Random, name: str) -> str:
    shade = rng.choice(COLOURS[name])
    if rng.random() < 0.5:
        return shade
    channels = (int(shade[at : at + 2], 16) + rng.randrange(-18, 19) for at in (1, 3, 5))
    return "#" + "".join(f"{min(255, max(0, channel)):02x}" for channel in channels)


def _draw_bars(bars: Bars, size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    image = Image.new("RGB", size, rng.choice(_PAPER))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(rng.choice((9, 11, 13)))
    left, right = int(width * rng.uniform(0.06, 0.18)), int(width * rng.uniform(0.84, 0.98))
    top, floor = int(height * rng.uniform(0.04, 0.16)), int(height * rng.uniform(0.82, 0.94))
    if rng.random() < 0.3:
        pen.rectangle((left, top, right, floor), fill="#ffffff")
    tallest = (floor - top) * rng.uniform(0.5, 1.0)
    if rng.random() < 0.5:
        _draw_scale(pen, (left, top, right, floor), font, grid=rng.random() < 0.5)
    slot = (right - left) / len(bars.names)
    share = rng.uniform(0.4, 1.0)
    edge = rng.choice((None, None, "#000000"))
    labels = rng.choice(_CATEGORIES).split() if rng.random() < 0.6 else [""] * 4
    for place, (shade, tall) in enumerate(zip(bars.shades, bars.heights, strict=True)):
        middle = left + slot * (place + 0.5)
        box = (middle - slot * share / 2, floor - tallest * tall, middle + slot * share / 2, floor)
        pen.rectangle(box, fill=shade, outline=edge)
        pen.text((middle, floor + 3), labels[place], fill="#222222", font=font, anchor="ma")
    if rng.random() < 0.6:
        pen.rectangle((left, top, right, floor), outline="#000000")
    else:
        pen.line((left, floor, right, floor), fill="#000000")
    pen.text((width / 2, top - 3), rng.choice(_TITLES), fill="#000000", font=font, anchor="mb")
    return image


def _draw_scale(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    grid: bool,
) -> None:
    left, top, right, floor = box
    for mark in range(6):
        level = floor - (floor - top) * mark / 6
        pen.line((left - 4, level, right if grid else left, level), fill="#b0b0b0" if grid else "#000000")
        pen.text((left - 6, level), str(mark * 10), fill="#222222", font=font, anchor="rm")


def _plot_bars(bars: Bars, size: tuple[int, int], rng: random.Random) -> Image.Image:
    from matplotlib.figure import Figure  # takes a third of a second, which the tests without it need not pay

    dpi = rng.choice((72, 100, 120))
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, layout=rng.choice((None, "tight")))
    axes = figure.subplots()
    top = rng.choice((1, 8, 42, 120, 5000)) * rng.uniform(0.7, 1.3)
    labels = rng.choice((*_CATEGORIES, " ".join(bars.names), " ".join(bars.names))).split()
    places = range(len(bars.names))
    drawn = axes.bar(
        places,
        [tall * top for tall in bars.heights],
        color=bars.shades,
        width=rng.uniform(0.5, 0.95),
        edgecolor=rng.choice((None, None, "black")),
    )
    axes.set_xticks(places, labels[: len(bars.names)])
    axes.set_title(rng.choice(_TITLES))
    axes.set_facecolor(rng.choice(_PAPER))
    figure.set_facecolor(rng.choice(_PAPER))
    if rng.random() < 0.4:
        axes.set_ylabel("value")
    if rng.random() < 0.3:
        axes.grid(axis="y", alpha=0.6)
    if rng.random() < 0.2:
        axes.bar_label(drawn, fmt="%.1f")
    if rng.random() < 0.3:
        axes.set_ylim(0, top * rng.uniform(1.05, 1.6))
    if rng.random() < 0.1:
        axes.legend(drawn, labels[: len(bars.names)])
    if rng.random() < 0.3:
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return decode(picture.getvalue())


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
