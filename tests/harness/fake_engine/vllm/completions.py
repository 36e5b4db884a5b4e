"""What the fake engine answers: a chat completion, whole or as a stream of events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vllm.faults import Faults
from vllm.sizes import count_tokens, read_size

_TEMPLATE_TOKENS = 12


@dataclass(frozen=True)
class Question:
    text: str
    sizes: tuple[tuple[int, int], ...]
    stream: bool
    with_usage: bool
    max_tokens: int


def read_question(body: bytes) -> Question:
    """Raises ValueError or KeyError for what vLLM would refuse with 400."""
    request = json.loads(body)
    parts: list[dict[str, Any]] = []
    for message in request.get("messages", [{"content": request.get("prompt", "")}]):
        content = message["content"]
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return Question(
        text=" ".join(part["text"] for part in parts if part["type"] == "text"),
        sizes=tuple(read_size(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"),
        stream=bool(request.get("stream")),
        with_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        max_tokens=request.get("max_tokens") or 0,
    )


def count_usage(question: Question, faults: Faults, max_pixels: int) -> dict[str, int]:
    pictures = sum(count_tokens(width, height, max_pixels) + 2 for width, height in question.sizes)
    prompt = _TEMPLATE_TOKENS + len(question.text.split()) + (0 if faults.picture_blind else pictures)
    if faults.prompt_tokens is not None:
        prompt = faults.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": faults.events, "total_tokens": prompt + faults.events}


def build_answer(question: Question, usage: dict[str, int], faults: Faults, model: str, request_id: str) -> bytes:
    if faults.nonsense:
        return b"[1, 2"
    content = f"{len(question.sizes)} pictures, {len(question.text)} letters" + "." * faults.event_bytes
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    answer = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [] if faults.no_choices else [choice],
        "usage": usage,
    }
    return json.dumps(answer).encode()


def build_events(question: Question, usage: dict[str, int], faults: Faults, model: str, request_id: str) -> list[bytes]:
    head = {"id": f"chatcmpl-{request_id}", "object": "chat.completion.chunk", "created": 1, "model": model}
    events, count = [], question.max_tokens if faults.all_tokens else faults.events
    for number in range(count):
        # Letters of several bytes: pieces may cut them, and no relay may mind.
        delta = {"content": f"w{number}é€" + "x" * faults.event_bytes}
        finish = "stop" if number == count - 1 else None
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        events.append({**head, "choices": choices})
    if question.with_usage:
        events.append({**head, "choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in events]
    return [*lines, b"data: [DONE]\n\n"]
