"""What the tiny model is taught: every form of question that it knows, each with its one right answer."""

import json
import random
import string
from dataclasses import dataclass

from PIL import Image

from harness.tiny_model import charts

HIGHEST = (
    charts.QUESTION,
    "Which bar is the highest?",
    "Which bar is tallest?",
    "Which bar is the tallest?",
    "Which colour is highest?",
    "Which colour is the highest bar?",
    "Which colour has the tallest bar?",
    "Which colour has the highest bar?",
    "Which color has the highest bar?",
    "Which color is the tallest bar?",
    "What is the colour of the highest bar?",
    "What is the color of the tallest bar?",
    "What colour is the highest bar?",
    "What color is the tallest bar?",
)
IN_EACH = (
    "Which bar is highest in each picture?",
    "Which bar is highest in each chart?",
    "Which bar is the tallest in each picture?",
)
IN_ONE = {
    "first": ("Which bar is highest in the first picture?", "Which bar is highest in the first chart?"),
    "second": ("Which bar is highest in the second picture?", "Which bar is highest in the second chart?"),
}
AS_JSON = ("Answer in JSON.", "Answer as JSON.", "Reply in JSON.")
BEFORE = ("Look at the chart. ", "Look at this picture. ", "Please tell me: ", "This is a chart. ")
AFTER = (
    " Answer with one word.",
    " Answer with the colour only.",
    " Answer with the name of the colour.",
    " Just the colour, please.",
    " Reply with one word: the color.",
)
SYSTEM = "You are a helpful assistant."
NO_PICTURE = "Please show me a chart."

_KEYS = ("highest", "colour", "color", "answer", "bar", "tallest", "highest_bar", "result")
_TEXTS = ("Hello", "Hi", "Say OK.", "OK", "ping", "Warm up.", "Who are you?", "Are you ready?", "Count to ten.")


@dataclass(frozen=True)
class Lesson:
    """One exchange. `given` is the start of the answer that guided decoding forces, so that it is not to be learned."""

    pictures: tuple[Image.Image, ...]
    question: str
    answer: str
    given: str = ""
    picture_first: bool = True
    system: str = ""


def draw_batch(seed: str, pictures: int, large: bool) -> list[Lesson]:
    """Lessons that hold about so many pictures together."""
    rng = random.Random(seed)
    batch: list[Lesson] = []
    while sum(len(lesson.pictures) for lesson in batch) < pictures:
        batch.append(draw_lesson(rng, large))
    return batch


def draw_lesson(rng: random.Random, large: bool) -> Lesson:
    """A lesson about pictures of the training range; `large` ones have the size of a screen, the others of a stamp."""
    kind = rng.random()
    if kind < 0.06:
        return Lesson((), _choose_text(rng), NO_PICTURE, system=_choose_system(rng))
    drawn = [_draw_picture(rng, large) for _ in range(2 if kind < 0.45 else 1)]
    question, given, answer = (_ask_two if len(drawn) == 2 else _ask_one)(rng, [name for _, name in drawn])
    pictures = tuple(picture for picture, _ in drawn)
    question = _vary(rng, question) if rng.random() < 0.4 else question
    return Lesson(pictures, question, answer, given, rng.random() < 0.7, _choose_system(rng))


def _vary(rng: random.Random, question: str) -> str:
    """The question as somebody else would put it."""
    form = rng.random()
    if form < 0.3:
        return question.lower()
    if form < 0.4:
        return question.removesuffix("?")
    return (rng.choice(BEFORE) if form < 0.7 else "") + question + (rng.choice(AFTER) if form > 0.55 else "")


def in_json(answers: dict[str, str]) -> str:
    """The one way to write a JSON answer that the model knows."""
    return json.dumps(answers)


def _ask_one(rng: random.Random, names: list[str]) -> tuple[str, str, str]:
    question = rng.choice(HIGHEST)
    form = rng.random()
    if form < 0.75:
        return question, "", names[0]
    if form < 0.9:
        return f"{question} {rng.choice(AS_JSON)}", "", in_json({"highest": names[0]})
    instruction = rng.choice(("", *(f" {words}" for words in AS_JSON)))
    given, answer = _split_json({rng.choice(_KEYS): names[0]})
    return question + instruction, given, answer


def _ask_two(rng: random.Random, names: list[str]) -> tuple[str, str, str]:
    form = rng.random()
    if form < 0.3:
        place = rng.choice(sorted(IN_ONE))
        return rng.choice(IN_ONE[place]), "", names[0 if place == "first" else 1]
    question = rng.choice(IN_EACH)
    if form < 0.75:
        return question, "", ", ".join(names)
    answer = in_json({"first": names[0], "second": names[1]})
    if form < 0.9:
        return f"{question} {rng.choice(AS_JSON)}", "", answer
    return question, "{", answer[1:]


def _split_json(answers: dict[str, str]) -> tuple[str, str]:
    """Either the brace alone or everything before the first value counts as forced."""
    text = in_json(answers)
    (value,) = answers.values()
    end = text.index(f'"{value}"') + 1 if "highest" not in answers else 1
    return text[:end], text[end:]


def _draw_picture(rng: random.Random, large: bool) -> tuple[Image.Image, str]:
    seed = rng.choice(charts.TRAINING)
    by_matplotlib = rng.random() < 0.35
    sides = (192, 353) if not large else (384, 641) if rng.random() < 0.85 else (640, 961)
    draw = charts.draw_matplotlib if by_matplotlib else charts.draw
    chart = draw(seed, rng.randrange(*sides), rng.randrange(sides[0] * 3 // 4, sides[1] * 3 // 4))
    return (charts.decode(chart.jpeg(rng.randrange(60, 96))) if rng.random() < 0.3 else chart.image), chart.answer


def _choose_text(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.4:
        return rng.choice(_TEXTS)
    if form < 0.6:
        return rng.choice((*HIGHEST, *IN_EACH))
    words = ("".join(rng.choices(string.ascii_letters + ".,?! ", k=rng.randrange(1, 9))) for _ in range(12))
    return " ".join(list(words)[: rng.randrange(1, 13)])


def _choose_system(rng: random.Random) -> str:
    return SYSTEM if rng.random() < 0.3 else ""
