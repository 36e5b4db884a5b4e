"""The tiny model's charts, lessons and tokenizer; the model itself is tried on a real vLLM."""

import json
import re
import stat
from typing import Any

import numpy as np
import pytest
from PIL import ImageColor

from harness.tiny_model import charts, lessons, snapshot

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
SHADES = [shade for shades in charts.COLOURS.values() for shade in shades]
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "training.json",
}


def read(name: str) -> Any:
    return json.loads((snapshot.PATH / name).read_text())


@pytest.mark.parametrize("draw", [charts.draw, charts.draw_matplotlib])
def test_a_seed_is_one_chart(draw: Any) -> None:
    first, again, other = draw(7), draw(7), draw(8)
    assert (first.png(), first.answer) == (again.png(), again.answer)
    assert first.png() != other.png()


def test_a_chart_has_the_size_asked_for() -> None:
    assert charts.draw(1, 300, 200).image.size == (300, 200)
    assert charts.draw_matplotlib(1, 300, 200).image.size == (300, 200)


def test_no_unseen_chart_is_trained_on() -> None:
    assert charts.UNSEEN.stop <= charts.TRAINING.start


def test_answers_are_spread_evenly() -> None:
    answers = [charts.draw(seed).answer for seed in range(200)]
    assert set(answers) == set(charts.COLOURS)
    assert max(map(answers.count, charts.COLOURS)) < 0.4 * len(answers)


@pytest.mark.parametrize("seed", range(20))
def test_the_answer_is_the_colour_that_reaches_highest(seed: int) -> None:
    chart = charts.draw(seed)
    pixels = np.asarray(chart.image).astype(int)
    vivid = pixels.max(axis=2) - pixels.min(axis=2) > 60
    top = pixels[tuple(np.argwhere(vivid)[0])]
    assert min(SHADES, key=lambda shade: np.abs(top - ImageColor.getrgb(shade)).sum()) in charts.COLOURS[chart.answer]


def test_a_picture_survives_its_encoding() -> None:
    chart = charts.draw(3)
    assert charts.decode(chart.png()).tobytes() == chart.image.tobytes()
    assert charts.decode(chart.jpeg()).size == chart.image.size
    assert charts.data_url(chart.png()).startswith("data:image/png;base64,iVBOR")
    assert charts.data_url(chart.jpeg()).startswith("data:image/jpeg;base64,")


def test_a_blank_picture_keeps_everything_but_the_bars() -> None:
    chart = charts.draw(3)
    blank = charts.blank(chart)
    assert (blank.image.size, blank.answer, blank.question) == (chart.image.size, chart.answer, chart.question)
    assert blank.image.getcolors() == [(chart.image.width * chart.image.height, (255, 255, 255))]


def test_a_batch_of_lessons_follows_from_its_seed() -> None:
    batch = lessons.draw_batch("3 1", 6, large=False)
    assert batch == lessons.draw_batch("3 1", 6, large=False)
    assert batch != lessons.draw_batch("3 2", 6, large=False)
    assert sum(len(lesson.pictures) for lesson in batch) >= 6


def test_every_lesson_has_an_answer_of_its_form() -> None:
    colour = "|".join(charts.COLOURS)
    for lesson in lessons.draw_batch("forms", 30, large=False):
        answer = lesson.given + lesson.answer
        if not lesson.pictures:
            assert answer == lessons.NO_PICTURE
        elif answer.startswith("{"):
            assert set(json.loads(answer).values()) <= set(charts.COLOURS)
        else:
            assert re.fullmatch(rf"({colour})(, ({colour}))?", answer)


def test_the_snapshot_is_complete_and_readable_by_everybody() -> None:
    files = list(snapshot.PATH.iterdir())
    assert {file.name for file in files} == FILES
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444 for file in files)


def test_the_control_tokens_are_spelled_as_the_family_spells_them() -> None:
    tokens = {token["content"]: token["id"] for token in read("tokenizer.json")["added_tokens"] if token["special"]}
    config = read("config.json")
    assert set(CONTROL) <= set(tokens)
    assert config["image_token_id"] == tokens["<|image_pad|>"]
    assert config["video_token_id"] == tokens["<|video_pad|>"]
    assert config["vision_start_token_id"] == tokens["<|vision_start|>"]
    assert config["vision_end_token_id"] == tokens["<|vision_end|>"]
    assert read("generation_config.json")["eos_token_id"] == tokens["<|im_end|>"]
    assert max(tokens.values()) < config["text_config"]["vocab_size"]


@pytest.mark.parametrize("name", charts.COLOURS)
def test_a_colour_is_one_token(name: str) -> None:
    assert {name, f"Ġ{name}"} <= set(read("tokenizer.json")["model"]["vocab"])


def test_the_preprocessor_has_the_family_s_values() -> None:
    pictures = read("preprocessor_config.json")
    assert pictures["size"] == {"shortest_edge": 65536, "longest_edge": 16777216}
    assert (pictures["patch_size"], pictures["merge_size"], pictures["temporal_patch_size"]) == (16, 2, 2)
    assert read("video_preprocessor_config.json")["size"] == {"shortest_edge": 4096, "longest_edge": 25165824}


def test_the_experts_lie_as_the_released_checkpoints_have_them() -> None:
    with (snapshot.PATH / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text = read("config.json")["text_config"]
    experts, hidden, inner = text["num_local_experts"], text["hidden_size"], text["moe_intermediate_size"]
    layer = "model.language_model.layers.0.mlp.experts"
    assert header[f"{layer}.gate_up_proj"]["shape"] == [experts, hidden, 2 * inner]
    assert header[f"{layer}.down_proj"]["shape"] == [experts, inner, hidden]
    assert {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"} == {"BF16"}
