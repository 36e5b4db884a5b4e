"""Trains the tiny model from nothing: `python -m harness.tiny_model.train --out FOLDER --seed N`.

The same seed on the same CPU gives the same weights; on a GPU almost. Needs the extra `cpu` and the group `test`.
`snapshot/training.json` says how the weights in the repository were made: with the defaults, on two CPU cores. A step
takes a second there, or six minutes in all with `--device cuda` and four `--drawers` on one H100.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen3VLMoeForConditionalGeneration

from harness.tiny_model import config, lessons, snapshot
from harness.tiny_model.tokenizer import END_OF_TURN, build_tokenizer

_IGNORED = -100


@dataclass(frozen=True)
class Course:
    """How long and how fast to learn; a step takes `small` pictures, or every fifth time `large` larger ones."""

    seed: int
    steps: int
    rate: float = 7e-4
    warmup: int = 100
    small: int = 16
    large: int = 6
    device: str = "cpu"
    drawers: int = 1


@dataclass
class Tally:
    """What the last steps were like; an answer counts as right when every token of it is the likeliest."""

    steps: int = 0
    right: int = 0
    asked: int = 0
    losses: float = 0.0

    def add(self, loss: Any, logits: Any, wanted: Any) -> None:
        right = ((logits.argmax(-1) == wanted) | (wanted == _IGNORED)).all(dim=1)
        self.steps += 1
        self.right += int(right.sum())
        self.asked += len(right)
        self.losses += loss.item()

    def __str__(self) -> str:
        return f"loss {self.losses / self.steps:.3f}, {self.right / self.asked:.0%} right"


def train(course: Course, folder: Path) -> None:
    """Writes the snapshot to `folder`, at the end and every few hundred steps."""
    model, processor = start(course, folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, course))
    started, tally = time.monotonic(), Tally()
    for step, drawn in enumerate(draw_batches(course), start=1):
        inputs, labels = collate(drawn, processor, course.device)
        logits, wanted = model(**inputs).logits[:, :-1], labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tally.add(loss, logits, wanted)
        if step % 20 == 0:
            print(f"step {step} of {course.steps}: {tally}, {time.monotonic() - started:.0f} s", flush=True)
            tally = Tally()
        if step % 300 == 0 or step == course.steps:
            snapshot.write_model(model, folder, asdict(course) | {"steps": step})


def start(course: Course, folder: Path) -> tuple[Any, Any]:
    """An untrained model, and its processor from `folder` as everybody else will load it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(course.seed)
    tokenizer = build_tokenizer()
    snapshot.write_tokenizer(tokenizer, folder)
    settings = config.build_config(tokenizer)
    model = Qwen3VLMoeForConditionalGeneration._from_config(settings, experts_implementation="grouped_mm")
    return model.to(course.device).train(), AutoProcessor.from_pretrained(folder)


def draw_batches(course: Course) -> Iterator[list[lessons.Lesson]]:
    """The batch of every step, drawn ahead by processes of their own; how many of them changes nothing."""
    with ProcessPoolExecutor(course.drawers, multiprocessing.get_context("spawn")) as drawers:
        ahead: deque[Future[list[lessons.Lesson]]] = deque()
        for step in range(1, course.steps + 1):
            large = step % 5 == 0
            pictures = course.large if large else course.small
            ahead.append(drawers.submit(lessons.draw_batch, f"{course.seed} {step}", pictures, large))
            if len(ahead) > 2 * course.drawers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def collate(batch: list[lessons.Lesson], processor: Any, device: str) -> tuple[dict[str, Any], Any]:
    """The model's input and, where an answer is to be learned, its tokens as labels."""
    tokenizer = processor.tokenizer
    texts = [_prompt(lesson, tokenizer) + lesson.given + lesson.answer + END_OF_TURN for lesson in batch]
    pictures = [picture for lesson in batch for picture in lesson.pictures]
    inputs = processor(text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], _IGNORED)
    for row, lesson in enumerate(batch):
        learned = len(tokenizer(lesson.answer + END_OF_TURN)["input_ids"])
        end = int(inputs["attention_mask"][row].sum())
        labels[row, end - learned : end] = inputs["input_ids"][row, end - learned : end]
    return {name: value.to(device) for name, value in inputs.items()}, labels.to(device)


def _prompt(lesson: lessons.Lesson, tokenizer: Any) -> str:
    pictures = [{"type": "image"}] * len(lesson.pictures)
    text = [{"type": "text", "text": lesson.question}]
    system = [{"role": "system", "content": lesson.system}] if lesson.system else []
    user = {"role": "user", "content": pictures + text if lesson.picture_first else text + pictures}
    prompt: str = tokenizer.apply_chat_template([*system, user], tokenize=False, add_generation_prompt=True)
    return prompt


def _rate(step: int, course: Course) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    if step < course.warmup:
        return (step + 1) / course.warmup
    done = (step - course.warmup) / max(1, course.steps - course.warmup)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=snapshot.PATH)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw charts")
    options = parser.parse_args()
    train(
        Course(options.seed, options.steps, options.rate, device=options.device, drawers=options.drawers), options.out
    )


if __name__ == "__main__":
    main()
