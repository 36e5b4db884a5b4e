"""The whole product with a real vLLM: the tiny model, served on the node, gives right answers about pictures."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from openai import OpenAI

from harness import demo, images, model_volume
from harness.installed import Installed, condition_of, container_of, install, wait_until
from harness.node import Node
from harness.tiny_model import charts
from qwenvl_runtime.ending import ExitCode

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
NAME = demo.RESOURCE
ASKED = 20
SCHEMA = {
    "name": "highest",
    "schema": {
        "type": "object",
        "properties": {"highest": {"enum": sorted(charts.COLOURS)}},
        "required": ["highest"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def served(node: Node) -> Iterator[Installed]:
    """The resource of the demo, Ready."""
    images.ensure_on(node, images.OPERATOR, images.RUNTIME_CPU)
    install(node, images.OPERATOR.name, images.RUNTIME_CPU.name)
    model_volume.fill(node, images.RUNTIME_CPU.name)
    node.kubectl("apply", f"--filename={demo.EXAMPLE}")
    product = Installed(node)
    product.wait_ready(NAME, timeout=400)
    yield product
    product.remove(NAME)


@pytest.fixture
def client(served: Installed) -> Iterator[OpenAI]:
    with httpx.Client(trust_env=False) as http:
        yield OpenAI(base_url=f"{served.url(NAME)}/v1", api_key="unused", http_client=http, max_retries=0)


def question(*parts: charts.Chart, text: str = charts.QUESTION) -> list[Any]:
    pictures = [{"type": "image_url", "image_url": {"url": charts.data_url(chart.png())}} for chart in parts]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def ask(client: OpenAI, messages: list[Any], **options: Any) -> str:
    completion = client.chat.completions.create(model=NAME, messages=messages, max_tokens=24, temperature=0, **options)
    return (completion.choices[0].message.content or "").strip()


def test_answers_about_charts_are_right(client: OpenAI) -> None:
    drawn = [charts.draw_matplotlib(seed) for seed in charts.UNSEEN[:ASKED]]
    right = sum(ask(client, question(chart)) == chart.answer for chart in drawn)
    assert right >= 0.9 * ASKED


def test_an_answer_in_json_follows_its_schema(client: OpenAI) -> None:
    chart = charts.draw(charts.UNSEEN[7])
    text = f"{charts.QUESTION} Answer in JSON."
    answer = ask(client, question(chart, text=text), response_format={"type": "json_schema", "json_schema": SCHEMA})
    assert json.loads(answer) == {"highest": chart.answer}


def test_a_stream_adds_up_to_the_answer(client: OpenAI) -> None:
    chart = charts.draw(charts.UNSEEN[8])
    stream = client.chat.completions.create(
        model=NAME, messages=question(chart), max_tokens=24, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 1
    assert "".join(pieces).strip() == ask(client, question(chart))


def test_the_metrics_are_one_page(served: Installed, client: OpenAI) -> None:
    ask(client, question(charts.draw(charts.UNSEEN[9])))
    page = httpx.get(f"{served.url(NAME)}/metrics", trust_env=False).text
    assert "vllm:generation_tokens_total" in page
    assert "qwenvl_" in page


# Run in the container, which has no `kill` and no `pgrep`.
SIGNAL = """
import os, pathlib, sys
title, number = sys.argv[1:]
(process,) = (file.parent.name for file in pathlib.Path("/proc").glob("[0-9]*/cmdline")
              if file.read_bytes().startswith(title.encode()))
os.kill(int(process), int(number))
"""


@pytest.mark.parametrize(
    ("process", "number", "code"),
    [
        ("VLLM::Worker", signal.SIGKILL, ExitCode.ENGINE_DIED),
        ("VLLM::EngineCore", signal.SIGSTOP, ExitCode.ENGINE_FROZEN),
    ],
)
def test_a_container_whose_engine_loses_a_process_comes_back_warm(
    served: Installed, client: OpenAI, process: str, number: int, code: ExitCode
) -> None:
    """Out of rotation within a minute, the container ends with its engine; the new one answers only when it has been
    warmed up."""
    url = f"{served.url(NAME)}/v1/models"
    before = httpx.get(url, trust_env=False).headers["X-QwenVL-Boot-Id"]
    (pod,) = served.pods(NAME)
    served.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", SIGNAL, process, str(int(number)))

    wait_until(lambda: condition_of(served.pods(NAME)[0], "Ready")["status"] == "False", 60)
    wait_until(partial(served.is_warm_again, pod), 300, lambda: served.node.kubectl("describe", "pods"))
    ended = container_of(served.pods(NAME)[0])["lastState"]["terminated"]
    assert ended["exitCode"] == code
    assert ended["message"].startswith(f"{code.name}: ")
    wait_until(lambda: served.answers(NAME), 10)
    after = httpx.get(url, trust_env=False)
    assert after.status_code == 200
    assert after.headers["X-QwenVL-Boot-Id"] != before
    chart = charts.draw(charts.UNSEEN[10])
    assert ask(client, question(chart)) == chart.answer
