"""What of a request reaches the engine, and what the client is told about the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.runtime_process import build_config
from harness.sample_pictures import animate, build_png_bomb, data_url, encode
from qwenvl_runtime.admission import Admission
from qwenvl_runtime.config import QueueConfig
from qwenvl_runtime.control_tokens import BREAK, CONTROL_TOKENS, disarm_tree
from qwenvl_runtime.errors import RequestError
from qwenvl_runtime.schemas import count_states
from qwenvl_runtime.screen import Asked, Screen

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONFIG = build_config(media={"allowed_url_hosts": ["images.example.com"], "max_source_pixels": 1_000_000})
SCREEN = Screen(CONFIG)
PNG = data_url(encode("PNG"))


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = parts[0] if len(parts) == 1 and type(parts[0]) is str else list(parts)
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def picture(url: str = PNG, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **options}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def call(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments, **fields}}


def pass_arguments(arguments: str) -> str:
    """The arguments of a call as the engine gets them."""
    sent = pass_on({"messages": [{"role": "assistant", "tool_calls": [call(arguments)]}]})
    result = sent["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert type(result) is str
    return result


def ask(content: Any, path: str = CHAT, screen: Screen = SCREEN) -> Asked:
    return screen.check(path, content if isinstance(content, bytes) else json.dumps(content).encode())


def pass_on(content: Any, path: str = CHAT) -> Any:
    return json.loads(ask(content, path).write())


def refuse(content: Any, path: str = CHAT, screen: Screen = SCREEN) -> tuple[str, str]:
    """The error's code and the path of the field."""
    with pytest.raises(RequestError) as caught:
        ask(content, path, screen)
    assert 400 <= caught.value.status < 500
    error = json.loads(caught.value.body())["error"]
    assert error["type"] == "invalid_request_error"
    assert not error["param"] or error["message"].startswith(error["param"])
    return error["code"], error["param"] or ""


# What passes


@pytest.mark.parametrize(
    "content",
    [
        chat("hello"),
        chat(text("a"), picture(), text("b"), picture()),
        chat(picture(data_url(encode("JPEG"), "image/jpeg")), picture(data_url(encode("WEBP"), "image/webp"))),
        chat("hi", temperature=0.5, top_p=1, max_tokens=16, n=2, stop=["a", "b"], seed=-5, stream=True,
             stream_options={"include_usage": True}, logprobs=True, top_logprobs=5, logit_bias={"5": -100},
             presence_penalty=-2, frequency_penalty=1.5, ignore_eos=True, top_k=-1, min_p=0.1, repetition_penalty=1.1),
        chat("hi", response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}),
        chat("hi", tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
             tool_choice={"type": "function", "function": {"name": "f"}}, parallel_tool_calls=False),
        {"messages": [
            {"role": "system", "content": "be kind"}, {"role": "user", "content": [text("x")], "name": "anna"},
            {"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "12"},
        ]},
    ],
)  # fmt: skip
def test_what_clients_send_is_passed_on_as_it_is(content: dict[str, Any]) -> None:
    assert pass_on(content) == content


def test_an_answer_can_be_sent_back() -> None:
    answer = {
        "role": "assistant", "content": "hi", "refusal": None, "annotations": None, "audio": None,
        "function_call": None, "tool_calls": [], "reasoning": None,
    }  # fmt: skip
    sent = pass_on({"messages": [{"role": "user", "content": "x"}, answer, {"role": "user", "content": "y"}]})
    assert sent["messages"][1] == {"role": "assistant", "content": "hi", "tool_calls": []}


def test_what_clients_add_to_an_answer_stays_here() -> None:
    """As OpenAI's client has it after `parse` and `stream`, and LiteLLM."""
    added = {"parsed": {"a": 1}, "provider_specific_fields": {"refusal": None}, "annotations": []}
    parsed = call('{"a": 1}', parsed_arguments={"a": 1}) | {"index": 0, "provider_specific_fields": {}}
    (sent,) = pass_on({"messages": [{"role": "assistant", "content": "x", "tool_calls": [parsed], **added}]})[
        "messages"
    ]
    assert sent == {"role": "assistant", "content": "x", "tool_calls": [call('{"a": 1}')]}


def test_what_means_nothing_to_the_engine_stays_here() -> None:
    assert pass_on(chat("x", user="u", metadata={"a": "b"}, store=True, mm_processor_kwargs=None)) == chat("x")
    assert pass_on(chat(picture(detail="original"))) == chat(picture())


def test_descriptions_may_be_long() -> None:
    described = {"description": "x" * 5000, "name": "s", "schema": {}}
    for content in (
        chat("x", response_format={"type": "json_schema", "json_schema": described}),
        chat("x", tools=[{"type": "function", "function": {"name": "f", "description": "x" * 5000}}]),
    ):
        assert pass_on(content) == content


def test_a_developer_is_what_the_model_calls_the_system() -> None:
    (message,) = pass_on({"messages": [{"role": "developer", "content": "be kind"}]})["messages"]
    assert message == {"role": "system", "content": "be kind"}


@pytest.mark.parametrize("prompt", ["once", ["a", "b"]])
def test_completions(prompt: Any) -> None:
    content = {"model": "m", "prompt": prompt, "max_tokens": 5, "logprobs": 3, "echo": False}
    assert pass_on(content, TEXT) == content


# Fields


@pytest.mark.parametrize(
    "name",
    [
        "mm_processor_kwargs", "media_io_kwargs", "chat_template", "chat_template_kwargs", "cache_salt", "priority",
        "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "prompt_embeds", "prompt_logprobs", "echo",
        "add_generation_prompt", "continue_final_message", "add_special_tokens", "documents", "use_beam_search",
        "structured_outputs", "request_id", "truncate_prompt_tokens", "allowed_token_ids", "functions", "audio",
        "guided_json", "return_token_ids", "mm_payload", "", "x" * 5000, "Messages", "n ",
    ],
)  # fmt: skip
def test_fields_that_are_not_listed_are_refused(name: str) -> None:
    for value in (True, 0, {}, "a"):
        code, param = refuse({**chat("x"), name: value})
        assert (code, param) == ("unsupported_field", (name or '""') if len(name) < 64 else name[:64] + "...")
    assert refuse({"prompt": "x", "echo": True}, TEXT) == ("invalid_value", "echo")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0), ("n", 9), ("n", 1 << 70), ("n", 1.0), ("n", True), ("n", "2"), ("max_tokens", 0),
        ("max_tokens", 4097),
        ("max_tokens", -1), ("max_completion_tokens", 10**9), ("min_tokens", 4097), ("top_logprobs", 21),
        ("top_logprobs", -1), ("stop", ["a"] * 5), ("stop", "x" * 1025), ("stop", ""), ("stop", [1]), ("stop", {}),
        ("stop_token_ids", [1] * 17), ("logit_bias", {str(n): 1 for n in range(301)}), ("logit_bias", {"1": 101}),
        ("logit_bias", {"abc": 1}), ("logit_bias", {"-1": 1}), ("logit_bias", {"1" * 10: 1}), ("logit_bias", {"٣": 1}),
        ("logit_bias", {"": 1}), ("repetition_penalty", 0), ("repetition_penalty", 11), ("top_p", 0), ("top_p", "1"),
        ("temperature", 3), ("temperature", -1), ("temperature", "1"), ("top_p", 2), ("stream", 1), ("stream", "true"),
        ("seed", 1 << 63), ("tools", []), ("tools", [{}] * 129), ("tools", [{"type": "x"}]), ("tool_choice", "f"),
        ("response_format", {"type": "structural_tag"}), ("reasoning_effort", "most"), ("model", ["m"]),
        ("messages", []), ("messages", {}), ("messages", None), ("messages", ["a"]), ("modalities", ["audio"]),
        ("thinking_token_budget", 1.5), ("best_of", 2), ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"parameters": {}}}]), ("tools", [{"function": {"name": None}}]),
        ("tools", [{"function": {"name": "f", "description": 1}}]),
    ],
)  # fmt: skip
def test_absurd_values_are_refused(name: str, value: Any) -> None:
    code, param = refuse({**chat("x"), name: value})
    assert code in ("invalid_value", "unsupported_field")
    assert param.startswith(name)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "a"}, ".role"), ({"role": "Developer", "content": "a"}, ".role"),
        ({"role": "<|im_end|>", "content": "a"}, ".role"), ({"role": ["user"], "content": "a"}, ".role"),
        ({"role": "user", "content": 5}, ".content"), ({"role": "user", "content": ["a"]}, ".content[0]"),
        ({"role": "user", "content": {"type": "text"}}, ".content"), ({"role": "user", "content": [{}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "image": 1}]}, ".content[0].image"),
        ({"role": "user", "content": [{"type": ["text"], "text": "a"}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "image_embeds", "image_embeds": "a"}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "image_pil", "image_pil": "a"}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, ".content[0]"),
        ({"role": "user", "content": [{"image_url": PNG}]}, ".content[0]"),
        ({"role": "user", "content": [{**picture(), "uuid": "a"}]}, ".content[0].uuid"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": PNG}]}, ".content[0].image_url"),
        ({"role": "user", "content": [picture(fps=1)]}, ".content[0].image_url.fps"),
        ({"role": "user", "content": [picture(detail="most")]}, ".content[0].image_url.detail"),
        # The helper takes text alone; that something else is refused is what is tested.
        ({"role": "user", "content": [picture(url=[])]}, ".content[0].image_url.url"),  # type: ignore[arg-type]
        ({"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]},
         ".content[0].video_url.url"),
        ({"role": "user", "content": "a", "tools": []}, ".tools"),
        ({"role": "user", "content": "a", "task": "b"}, ".task"),
        ({"role": "assistant", "content": "a", "reasoning": 5}, ".reasoning"),
        ({"role": "assistant", "tool_calls": ["a"]}, ".tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"type": "function", "function": {}}]}, ".tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}, ".tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}, ".tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": None}}]},
         ".tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [call(None)]}, ".tool_calls[0].function.arguments"),
        ({"role": "assistant", "tool_calls": [call({"a": 1})]}, ".tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_malformed_messages_are_refused(message: dict[str, Any], param: str) -> None:
    assert refuse({"messages": [{"role": "user", "content": "x"}, message]})[1] == f"messages[1]{param}"


@pytest.mark.parametrize("many", [{"content": [text("a")] * 100}, {"tool_calls": [call("{}")] * 100}])
def test_the_parts_and_calls_of_all_messages_are_counted_together(many: dict[str, Any]) -> None:
    messages = [{"role": "assistant", **many}] * 40
    assert pass_on({"messages": messages}) == {"messages": messages}
    messages.append(messages[0])
    assert refuse({"messages": messages}) == ("too_complex", f"messages[40].{next(iter(many))}")


@pytest.mark.parametrize("prompt", [[1, 2], [[151655]], [], None, {}, ["a", 1], ["a"] * 33, 5])
def test_prompts_are_text(prompt: Any) -> None:
    assert refuse({"prompt": prompt}, TEXT) == ("invalid_value", "prompt")


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"1", b"null", b'"a"', b'{"messages": NaN}', b'{"messages": [1e999]}', b"{}x",
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": 01}', b"{'a': 1}", b'{"a": 1,}', b'{"a": "\n"}', b"[" * 100_000,
        b'{"a":' * 1030 + b"1" + b"}" * 1030, json.dumps(chat("x")).encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refuse(body) == ("invalid_json", "")


def test_depth_and_number_of_values() -> None:
    def nest(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels):
            schema = {"a": schema}
        return chat("x", tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])

    assert pass_on(nest(59)) == nest(59)
    assert refuse(nest(60)) == ("too_complex", "")
    assert refuse(b'{"messages": [' + b"[]," * 1_100_000 + b"[]]}") == ("too_complex", "")
    assert pass_on(chat("{" * 500)), "letters of a text are no depth"


@pytest.mark.parametrize("inner", ["|", "\\n", ""])
def test_the_arguments_of_a_call_are_no_way_around_the_depth(inner: str) -> None:
    def nest(levels: int) -> str:
        return "[" * levels + json.dumps(inner) + "]" * levels

    assert pass_arguments(nest(64)) == nest(64)
    for levels in (65, 260, 900):
        for arguments in (nest(levels), nest(levels).replace("]", ", NaN]", 1)):
            content = {"messages": [{"role": "assistant", "tool_calls": [call(arguments)]}]}
            assert refuse(content) == ("too_complex", "messages[0].tool_calls[0].function.arguments")
    assert pass_arguments(nest(100_000)) == pass_arguments("[" * 100_000) == pass_arguments("9" * 5000) == "{}"


@pytest.mark.parametrize(
    "arguments",
    [
        "", "{", '{"id": 12345678901234567890123, "path": "C:\\\\x"}', '{"a": 1.10, "b": 1e400, "c": "|"}',
        '{"a": NaN, "b": "|\\n"}', '{"a": "\\ud83d\\ude00 \\u00e4 \\u0041 \\\\u003c \\" \\u0022 \\u005c"}',
        '{ "a" : "<|odd|>",  "a" : "\\/" }', '{"a": "' + "x [{\\n" * 2000 + '"}', "no JSON [" * 100,
    ],
)  # fmt: skip
def test_the_arguments_of_a_call_are_not_changed(arguments: str) -> None:
    passed = pass_arguments(arguments)
    assert passed in (arguments, "{}" if arguments.startswith("no") else arguments)


def test_half_of_a_pair_is_replaced_in_arguments() -> None:
    passed = pass_arguments('{"a": "\\ud83d x", "b": "\\uDE00\\ud83d", "c": "\\ud83d\\ude00"}')
    assert json.loads(passed) == {"a": "\ufffd x", "b": "\ufffd\ufffd", "c": "\U0001f600"}


@given(st.lists(st.sampled_from(["\\", "u003c", "u007C", "u0069", "<", "|", "im_end|>", "m_end", ">", '"', "n"])))
def test_no_escape_makes_a_token_in_arguments(pieces: list[str]) -> None:
    arguments = '{"a": "' + "".join(pieces) + '"}'
    passed = pass_arguments(arguments)
    try:
        value = json.loads(arguments)
    except ValueError:
        return
    assert json.loads(passed) == disarm_tree(value)


SCHEMA, PARAMETERS = "response_format.json_schema.schema", "tools[0].function.parameters"


def form(schema: Any) -> dict[str, Any]:
    return chat("x", response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})


def tools(*schemas: Any, choice: Any = "required", **options: Any) -> dict[str, Any]:
    functions = [{"name": f"f{index}", "parameters": schema, **options} for index, schema in enumerate(schemas)]
    return chat("x", tools=[{"type": "function", "function": each} for each in functions], tool_choice=choice)


def properties(count: int, build: Callable[[int], Any], **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{index}": build(index) for index in range(count)}, **fields}


def string(**fields: Any) -> dict[str, Any]:
    return {"type": "string", **fields}


@pytest.mark.parametrize(
    "schema",
    [
        None, {}, properties(60, lambda _: string()), properties(500, lambda _: string()),
        properties(5, lambda index: string(maxLength=(100, 100, 254, 500, 500)[index])),
        properties(300, lambda _: string(minLength=1, maxLength=100), required=["p1", {"p2": 1}, "else"]),
        properties(900, lambda _: {}, required=[f"p{index}" for index in range(900)], additionalProperties=False),
        properties(50, lambda _: string(format="date")), properties(20, lambda _: string(format="email")),
        properties(1, lambda _: string(pattern=r"^[A-Z]{2}\d{2}[A-Z0-9]{1,30}$"), pattern=string(pattern="a")),
        {"properties": {name: string() for name in ("pattern", "maxLength", "format", "properties", "required")}},
        {"enum": [{"maxLength": "a", "format": 1, "pattern": None, "properties": [], "minLength": -1e300}]},
    ],
)  # fmt: skip
def test_ordinary_schemas_are_passed_on(schema: Any) -> None:
    for content in (form(schema), tools(schema), tools(schema, choice="auto"), tools(schema, strict=True)):
        assert pass_on(content)


@pytest.mark.parametrize(
    ("schema", "place", "limit"),
    [
        ({"description": "x" * 40_000}, "", "32768 bytes"),
        (properties(5000, lambda _: string(), required=[f"p{index}" for index in range(5000)]), "", "32768 bytes"),
        (properties(1, lambda _: {"items": [string(pattern="^[a-z]{1,100000}$")]}), ".properties.p0.items[0]", "1024"),
        ({"patternProperties": {"(a{40}){40}": {}}}, "", "1024 states"),
        ({"pattern": "[" * 10_000}, "", "1024 characters"),
        ({"patternProperties": {"[" + "a" * 2000 + "]": {}}}, "", "1024 characters"),
        (properties(6, lambda index: string(maxLength=1000 - index)), ".properties.p0", "1024 states"),
        (properties(6, lambda index: string(minLength=1000 - index, maxLength=1e9)), ".properties.p0", "1024 states"),
        (properties(600, lambda _: string(format="email")), ".properties.p439", "1024 states"),
        (properties(600, lambda _: string(format="hostname")), ".properties.p278", "1024 states"),
        (properties(800, lambda _: {}), "", "1024 states"),
        *(({"properties": {"x" * 513: {}, "y" * 512: {}}, name: value}, "", "states")
          for name in ("additionalProperties", "unevaluatedProperties") for value in (True, {})),
        ({"a": properties(800, lambda _: {}, required=["p1"])}, ".a", "1024 states"),
    ],
)  # fmt: skip
def test_a_schema_that_costs_the_engine_minutes_is_refused(schema: Any, place: str, limit: str) -> None:
    for content, path in (
        (form(schema), SCHEMA),
        (tools(schema), PARAMETERS),
        (tools(schema, choice={"type": "function", "function": {"name": "f0"}}), PARAMETERS),
        (tools(schema, choice="auto", strict=True), PARAMETERS),
    ):
        with pytest.raises(RequestError, match=limit) as caught:
            ask(content)
        assert caught.value.param == path + place
    assert refuse({"prompt": "x", "response_format": form(schema)["response_format"]}, TEXT)[1] == SCHEMA + place


def test_tools_of_one_grammar_are_counted_together() -> None:
    costly = [properties(1, lambda _: string(pattern="^[a-z]{1,600}$"))] * 2
    place = "tools[1].function.parameters.properties.p0"
    assert refuse(tools(*costly)) == ("invalid_value", place)
    assert refuse(tools(*costly, choice="auto", strict=True)) == ("invalid_value", place)
    for content in (
        tools(*costly, choice="auto"),
        tools(*costly, choice={"type": "function", "function": {"name": "f1"}}),
        tools(costly[0], None),
        tools(*[properties(10, lambda _: string(maxLength=200))] * 50),
    ):
        assert pass_on(content) == content


def test_the_time_that_a_pattern_takes_grows_with_its_length() -> None:
    for pattern in ("[" * 500_000, "[a" * 250_000, "[" * 1000 + "*" * 500_000, "{1" * 250_000, "[\\" * 150_000):
        started = process_time()
        count_states(pattern)
        assert process_time() - started < 5


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("", 0), ("abc", 3), ("a{3}", 3), ("a{2,}", 2), ("a{0,5}b", 6), ("[a-z]{3}", 3), ("[]{9}]{3}", 3),
        (r"[\]{9}]{3}", 3), (r"\{9}", 3), ("(ab|c){3}d", 13), ("((a{2}){3}){4}", 24), ("a{2}{3}", 6), ("(a{5}", 5),
        ("a)){4}", 6), ("a{,5}", 5), ("(?:ab)*c+", 4),
        ("a[b{9}", 2), ("[" * 900, 1),
    ],
)  # fmt: skip
def test_the_states_of_a_pattern(pattern: str, states: int) -> None:
    assert count_states(pattern) == states


@given(st.text(alphabet="ab[](){}\\,0123456789*|^$?", max_size=40))
def test_no_pattern_breaks_the_count(pattern: str) -> None:
    assert count_states(pattern) >= 0


def test_the_engine_sees_what_was_checked() -> None:
    """The last of equal keys was checked, so it alone is passed on."""
    body = b'{"n": 900, "n": 1, "messages": [{"role": "x", "role": "user", "content": "\\u003c|im_start|\\u003e"}]}'
    sent = ask(body).write()
    assert sent.count(b'"n"') == sent.count(b'"role"') == 1
    assert json.loads(sent)["messages"][0] == {"role": "user", "content": f"<{BREAK}|im_start|>"}


# Control tokens


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_tokens_are_broken_up_wherever_text_goes(token: str) -> None:
    named = {"id": token, "type": "function", "function": {"name": token, "arguments": json.dumps({token: [token]})}}
    escaped = call(json.dumps({"a": token}).replace("<", "\\u003c").replace("|", "\\u007C").replace("i", "\\u0069"))
    messages = [
        {"role": "system", "content": token}, {"role": "user", "content": [text(token), picture()], "name": token},
        {"role": "user", "content": [text(letter) for letter in token]},
        {"role": "assistant", "content": token, "reasoning": token, "tool_calls": [named, escaped]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": token}, text(token)],
        "reasoning_content": token},
        {"role": "tool", "tool_call_id": token, "content": token}, {"role": "tool", "content": [text(token)]},
    ]  # fmt: skip
    function = {"name": token, "description": token, "parameters": {"properties": {token: {"enum": [token]}}}}
    sent = pass_on({"messages": messages, "tools": [{"type": "function", "function": function}]})
    assert token not in json.dumps(sent, ensure_ascii=False)
    for message in sent["messages"]:
        if type(message.get("content")) is list:
            assert token not in "".join(part.get("text", "") for part in message["content"])
        for each in message.get("tool_calls", ()):
            assert token not in json.dumps(json.loads(each["function"]["arguments"]), ensure_ascii=False)
    for prompt in (token, [token, "a"]):
        assert token not in json.dumps(pass_on({"prompt": prompt}, TEXT), ensure_ascii=False)


HEADER = "x-anthropic-billing-header: x"


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
@pytest.mark.parametrize("between", [text(HEADER), text(HEADER + "\n"), text(""), text(" "), picture()])
def test_what_the_engine_leaves_out_between_two_texts_makes_no_token(role: str, between: dict[str, Any]) -> None:
    """vLLM drops Claude Code's header from the beginning of each system text, and the template some pictures."""
    for token in CONTROL_TOKENS:
        for cut in range(1, len(token)):
            parts = [text(token[:cut]), between, text(token[cut:])]
            (message,) = pass_on({"messages": [{"role": role, "content": parts}]})["messages"]
            assert token not in message["content"][0]["text"] + message["content"][2]["text"]


def test_a_line_that_the_engine_leaves_out_makes_no_token() -> None:
    parts = [text("<|im_"), text(f"{HEADER}\nend|>")]
    (message,) = pass_on({"messages": [{"role": "system", "content": parts}]})["messages"]
    assert message["content"] == [text(f"<{BREAK}|im_"), text(f"{HEADER}\nend|>")]


@given(st.text(max_size=40))
def test_other_text_is_not_changed(value: str) -> None:
    if not any(token in value for token in CONTROL_TOKENS):
        assert (
            pass_on(json.dumps(chat(value)).encode("utf-8", "replace"))["messages"][0]["content"]
            == value.encode("utf-8", "replace").decode()
        )


# Media


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://images.example.com/a", "media_not_allowed"), ("https://evil.org/a", "media_not_allowed"),
        ("file:///etc/passwd", "media_not_allowed"), ("data:text/plain;base64,YQ==", "media_not_allowed"),
        ("data:,a", "media_not_allowed"), ("data:image/png,abc", "media_not_allowed"), ("", "media_not_allowed"),
        ("data:image/gif;base64,R0lGODlh", "media_not_allowed"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "media_not_allowed"),
        ("data:image/png;charset=x;base64,AAAA", "media_not_allowed"),
        ("DATA:image/gif;base64,AAAA", "media_not_allowed"), ("data:image/png;base64", "media_not_allowed"),
        ("data:image/png;base64 ,AAAA", "media_not_allowed"), ("/etc/passwd", "media_not_allowed"),
        ("data:video/jpeg;base64,AAAA", "media_not_allowed"), ("https://" + "a" * 5000, "media_not_allowed"),
        (PNG.replace("image/png", "image/jpeg"), "media_malformed"), (PNG + "\n", "media_malformed"),
        ("data:image/png;base64,", "media_malformed"), ("data:image/png;base64,====", "media_malformed"),
        ("data:image/png;base64,é" + PNG[23:], "media_malformed"), (data_url(encode("GIF")), "media_malformed"),
        (data_url(encode("PNG")[:-20]), "media_malformed"), (data_url(animate("PNG")), "media_malformed"),
        (data_url(animate("WEBP"), "image/webp"), "media_malformed"), (data_url(b"<svg/>"), "media_malformed"),
        (data_url(build_png_bomb(50_000, 50_000)), "media_limit"),
        (data_url(build_png_bomb(1000, 1001)), "media_limit"),
        (data_url(build_png_bomb(1, 201)), "media_limit"),
    ],
)  # fmt: skip
def test_pictures_that_are_refused(url: str, code: str) -> None:
    assert refuse(chat(text("a"), picture(url))) == (code, "messages[0].content[1].image_url.url")


def test_the_number_of_pictures_counts_over_all_messages() -> None:
    messages = [{"role": "user", "content": [picture(), picture()]}] * 2
    assert pass_on({"messages": messages})
    messages.append({"role": "tool", "content": [picture()]})
    assert refuse({"messages": messages}) == ("media_limit", "messages[2].content[0].image_url.url")


def test_the_pixels_of_a_request_are_bounded_as_they_are_sent() -> None:
    screen = Screen(build_config(media={"max_images": 9, "max_source_pixels": 262144}))
    largest = picture(data_url(build_png_bomb(512, 512)))
    asked = ask(chat(*[largest] * 9), screen=screen)
    assert asked.media.source_pixels == 9 * 262144, "none of them is scaled down"
    screen = Screen(build_config(media={"max_images": 9, "max_source_pixels": 1_000_000}))
    large = picture(data_url(build_png_bomb(1000, 1000)))
    assert ask(chat(*[large] * 4), screen=screen).media.source_pixels == 4_000_000
    assert refuse(chat(*[large] * 5), screen=screen) == ("media_limit", "messages[0].content[4].image_url.url")


@pytest.mark.parametrize(
    "url",
    [PNG.replace("data", "DATA"), PNG.replace("image/png", "image/PNG"), PNG.replace(";base64", ";BASE64")],
)
def test_a_picture_in_any_case_reaches_the_engine_in_the_one_that_it_knows(url: str) -> None:
    assert pass_on(chat(picture(url))) == chat(picture(PNG))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://images.example.com/a#b", "without user or fragment"),
        ("https://images.example.com/\u00e9.png", "in ASCII, escaped"),
        ("HTTPS://images.example.com/a b", "in ASCII, escaped"),
        ("https://images.example.com/" + "a" * 5000, "more than 4096 characters"),
        ("https://other.example.com/a", "or from images.example.com"),
    ],
)
def test_an_address_that_is_refused_is_told_why(url: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ask(chat(picture(url)))


def test_a_field_without_a_name_is_named() -> None:
    with pytest.raises(RequestError, match='"": this field') as caught:
        ask({**chat("x"), "": 1})
    assert caught.value.param == '""'


def test_errors_name_the_limit() -> None:
    with pytest.raises(RequestError, match=r"50000x50000 .* 1000000 pixels \(media.maxSourcePixels\)"):
        ask(chat(picture(data_url(build_png_bomb(50_000, 50_000)))))
    with pytest.raises(RequestError, match=r"at most 4 pictures \(media.maxImages\)"):
        ask(chat(*[picture()] * 5))
    with pytest.raises(RequestError, match=r"or from images.example.com \(media.allowedURLHosts\)"):
        ask(chat(picture("http://a/")))


def test_pictures_of_named_hosts_wait_to_be_fetched() -> None:
    asked = ask(chat(picture("https://images.example.com/a.png")))
    (slot,) = asked.media.slots
    assert slot.link == ("https", "images.example.com", 443, "/a.png")
    slot.holder["url"] = PNG
    assert json.loads(asked.write()) == chat(picture())


def test_videos_when_they_are_allowed() -> None:
    screen = Screen(build_config(media={"max_videos": 1}))
    mp4 = data_url(b"\0\0\0\x18ftypisom" + b"\0" * 30, "video/mp4")
    video = {"type": "video_url", "video_url": {"url": mp4}}
    assert ask(chat(video), screen=screen).tokens
    assert refuse(chat(video, video), screen=screen)[0] == "media_limit"
    video["video_url"] = {"url": data_url(encode("JPEG"), "video/mp4")}
    assert refuse(chat(video), screen=screen)[0] == "media_malformed"
    assert refuse(chat(picture("data:video/mp4;base64,AAAA")), screen=screen)[0] == "media_not_allowed"


# Room


def test_tokens_are_estimated() -> None:
    assert 225 <= ask(chat("x" * 1000)).tokens <= 300
    small, large = ask(chat(picture())), ask(chat(picture(data_url(encode("PNG", 900, 900)))))
    assert 64 <= small.tokens <= 130
    assert 256 <= large.tokens <= 320, "scaled down to max_pixels"


def test_the_queue_has_an_end() -> None:
    admission = Admission(QueueConfig(max_requests=3, max_tokens=1000))
    admission.enter(5000, 1)
    with pytest.raises(RequestError, match=r"queue\.maxTokens") as caught:
        admission.enter(1, 1)
    assert (caught.value.status, caught.value.headers) == (429, (("Retry-After", "5"),))
    admission.leave(5000, 1)
    for _ in range(3):
        admission.enter(300, 1)
    with pytest.raises(RequestError, match=r"queue\.maxRequests"):
        admission.check_room()
    admission.leave(300, 1)
    admission.check_room()
    with pytest.raises(RequestError, match=r"queue\.maxTokens"):
        admission.enter(401, 1)
    admission.enter(400, 1)


def test_a_full_queue_tells_what_is_in_it_what_was_asked_and_what_it_takes() -> None:
    admission = Admission(QueueConfig(max_requests=3, max_tokens=1000))
    admission.enter(300, 1)
    with pytest.raises(
        RequestError, match=r"300 prompt tokens .* 701 are asked for, of at most 1000 \(queue\.maxTokens\)\."
    ):
        admission.enter(701, 1)
    with pytest.raises(
        RequestError, match=r"1001 are asked for, of at most 1000 \(queue\.maxTokens\); .* only while nothing else"
    ):
        admission.enter(1001, 1)
    with pytest.raises(RequestError, match=r"1 requests .* 3 are asked for, of at most 3 \(queue\.maxRequests\)\."):
        admission.enter(1, 3)


def test_the_pixels_of_all_pictures_are_bounded() -> None:
    admission = Admission(QueueConfig(), max_pixels=100)
    admission.enter(1, 1, 200)
    with pytest.raises(
        RequestError, match=r"200 pixels of pictures .* 1 are asked for, of at most 100 \(media"
    ) as caught:
        admission.enter(1, 1, 1)
    assert caught.value.status == 429
    admission.leave(1, 1, 200)
    admission.enter(1, 1, 60)
    admission.enter(1, 1, 40)
    assert (admission.requests, admission.pixels) == (2, 100)


def test_each_answer_that_is_asked_for_takes_a_place_in_the_queue() -> None:
    assert ask(chat("x")).answers == 1
    assert ask(chat("x", n=3)).answers == 3
    prompts = {"model": "tiny", "prompt": ["a", "b"], "n": 4}
    assert ask(prompts, TEXT).answers == 8
    admission = Admission(QueueConfig(max_requests=4))
    admission.enter(1, 8)
    admission.leave(1, 8)
    admission.enter(1, 2)
    with pytest.raises(RequestError, match=r"queue\.maxRequests"):
        admission.enter(1, 3)
    admission.enter(1, 2)


# Anything


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "n", "stop", "tools", "tool_choice", "response_format", "logit_bias", "stream_options"]
)
PART_NAMES = st.sampled_from(
    ["type", "text", "image_url", "url", "role", "content", "name", "tool_calls", "function", "arguments"]
)
ODD = st.recursive(
    JSON | st.sampled_from(["text", "image_url", "user", "assistant", "function", PNG, *CONTROL_TOKENS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PART_NAMES, inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(NAMES, ODD, max_size=4), st.lists(st.dictionaries(PART_NAMES, ODD, max_size=4), max_size=3))
def test_any_json_is_passed_or_refused_by_name(content: dict[str, Any], messages: list[Any]) -> None:
    for path in (CHAT, TEXT):
        for body in (content, {**content, "messages": messages}, chat(*messages)):
            try:
                sent = json.loads(ask(json.dumps(body).encode("utf-8", "replace"), path).write())
            except RequestError:
                continue
            else:
                held = json.dumps([sent.get("messages"), sent.get("prompt"), sent.get("tools")], ensure_ascii=False)
                assert not any(token in held for token in CONTROL_TOKENS)
