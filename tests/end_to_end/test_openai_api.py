"""OpenAI's API: the same answers as `vllm serve`, the clients that people use, and what a Triton request adds."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.client import Client
from tests.support.frontend_process import Frontend, HttpAnswer
from tests.support.media_files import Files
from tests.support.openai_answers import comparable
from tests.support.openai_cases import (
    ANSWER,
    CASES,
    CHAT,
    MESSAGES,
    MODEL,
    PICTURES,
    REASONING,
    SCHEMA,
    THOUGHT,
    TOOL,
    Case,
    chat,
    data_uri,
    image,
    send,
    text,
    user,
)
from tests.support.servers import ADAPTERS, wait_until
from tests.support.shapes import clip, encode, gif
from tests.support.superset import FINGERPRINT, GENERATED
from tests.support.vllm_serve_cases import ServeAnswers

# The first test waits for two engines, one after the other.
pytestmark = pytest.mark.timeout(900)

LONG: dict[str, Any] = {"model": MODEL, "prompt": "2+3=", "ignore_eos": True, "max_tokens": 6000}
STREAMS = 8
DESCRIBE = "Describe the image."


@pytest.fixture(scope="module")
def expected(serve_answers: ServeAnswers) -> dict[str, HttpAnswer]:
    """What `vllm serve` answers to every case."""
    return serve_answers.openai


@pytest.fixture(scope="module", autouse=True)
def listed(superset: str, frontend: Frontend) -> None:
    """The frontend knows the model, and no more the models of other modules."""
    names = {superset, *ADAPTERS}
    wait_until(lambda: {card["id"] for card in frontend.get("/v1/models").json.get("data", ())} == names)


def test_the_cases_are_of_all_kinds_and_more_than_a_hundred(expected: dict[str, HttpAnswer]) -> None:
    assert len(CASES) == len(expected) > 100
    statuses = {name: answer.status for name, answer in expected.items()}
    wrong = {name: status for name, status in statuses.items() if (status >= 400) != ("error:" in name)}
    assert wrong == {}
    assert {200, 400, 404, 405} <= set(statuses.values())
    assert max(statuses.values()) < 500


# Constraints are compiled before vLLM sees them, and the refusal names the place.
OWN_MESSAGES = {
    "chat: error: a schema": "structured_outputs.json: cannot be compiled: at $.type: 'nonsense'",
    "chat: error: a regular expression": "structured_outputs.regex: cannot be compiled: unterminated character set",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_that_of_vllm_serve(
    case: Case, frontend: Frontend, files: Files, expected: dict[str, HttpAnswer]
) -> None:
    ours, vllms = comparable(send(frontend, case, files.url)), comparable(expected[case.name])
    if case.name in OWN_MESSAGES:
        assert vllms[2]["error"].pop("message")
        assert ours[2]["error"].pop("message").startswith(OWN_MESSAGES[case.name])
    if case.path == MESSAGES and "error" in vllms[2]:
        # vLLM has OpenAI's form for some of them.
        assert ours[2].keys() == {"type", "error"}
        ours, vllms = ((*got[:2], got[2]["error"]["message"]) for got in (ours, vllms))
    assert ours == vllms


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"chat_template": "{{ 7*7 }}"}, "chat_template: "),
        ({"chat_template_kwargs": {"chat_template": "{{ 7*7 }}"}}, "chat_template_kwargs.chat_template: "),
        ({"chat_template_kwargs": {"tokenize": True, "padding": "max_length", "max_length": 2**40}}, "tokenize"),
        ({"mm_processor_kwargs": {"patch_size": 7}}, "mm_processor_kwargs: 'patch_size'"),
        ({"mm_processor_kwargs": {"max_pixels": 100}}, "a whole number from 3136 to 1003520, got 100"),
        ({"vllm_xargs": {"a": 1}}, "TRUSTED_PARAMETERS"),
        ({"n": 129}, "MAX_N"),
    ],
)
def test_what_a_client_may_not_set_is_refused_by_name(frontend: Frontend, fields: dict[str, Any], told: str) -> None:
    body = {"model": MODEL, "messages": user(image(), text(DESCRIBE)), "max_tokens": 4, **fields}
    answer = frontend.post(CHAT, body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "BadRequestError")
    assert told in answer.json["error"]["message"]


def test_pixels_and_frames_may_be_lowered(frontend: Frontend) -> None:
    def tokens(**fields: Any) -> int:
        body = {"model": MODEL, "messages": user(image(), text(DESCRIBE)), "max_tokens": 1, **fields}
        return int(frontend.post(CHAT, body).json["usage"]["prompt_tokens"])

    assert tokens(mm_processor_kwargs={"max_pixels": 3136}) < tokens()
    assert tokens(media_io_kwargs={"video": {"num_frames": 2}}) == tokens()


# The calls that people make


def test_the_model_and_its_adapters_are_listed_without_paths(frontend: Frontend) -> None:
    cards = {card["id"]: card for card in frontend.get("/v1/models").json["data"]}
    assert list(cards) == [MODEL, "zh", "caps"]
    assert {card["parent"] for card in cards.values()} == {None, MODEL}
    assert {card["root"] for card in cards.values()} == set(cards)
    assert cards[MODEL]["max_model_len"] == 8192


def test_an_image_by_url_is_described(frontend: Frontend, files: Files) -> None:
    messages = user(text(DESCRIBE), {"type": "image_url", "image_url": {"url": f"{files.url}/0.png"}})
    body = {"model": MODEL, "messages": messages, "limit_mm_per_prompt": {"image": 30}}
    answer = frontend.post(CHAT, body)
    assert answer.json["choices"][0]["message"]["content"] == PICTURES[0].answer()


@pytest.fixture(scope="module")
def sync(frontend: Frontend) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=frontend.base_url, api_key="none", max_retries=0) as made:
        yield made


def test_openai_python_text_and_stream(sync: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": user("2+3="), "temperature": 0}
    whole = sync.chat.completions.create(**asked)
    pieces = sync.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(pieces)
    assert whole.choices[0].message.content == "5"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "5"
    assert chunks[-1].usage is not None


async def test_openai_python_async(frontend: Frontend) -> None:
    async with openai.AsyncOpenAI(base_url=frontend.base_url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=user(image(), text(DESCRIBE)), temperature=0, stream=True
        )  # type: ignore[call-overload]
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(said) == PICTURES[0].answer()


def test_openai_python_tools_schema_logprobs_and_n(sync: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": user("2+3="), "temperature": 0}
    # The model has not learnt to call tools: a constraint puts the words in its mouth, and the parser has to see them.
    arguments = {"colour": "red", "number": 7}
    said = f"<tool_call>\n{json.dumps({'name': 'paint', 'arguments': arguments})}\n</tool_call>"
    constrained: Any = {"max_tokens": 200, "extra_body": {"structured_outputs": {"choice": [said]}}}
    called = sync.chat.completions.create(**asked, tools=[TOOL], tool_choice="auto", **constrained)
    (call,) = called.choices[0].message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("paint", arguments)
    formatted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    shaped = sync.chat.completions.create(**asked, response_format=formatted)
    assert set(json.loads(shaped.choices[0].message.content or "")) == {"colour", "number"}
    several = sync.chat.completions.create(**{**asked, "temperature": 1.0}, n=3, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    logprobs = several.choices[0].logprobs
    assert logprobs is not None
    assert len((logprobs.content or ())[0].top_logprobs) == 2


def test_openai_python_images_by_url_and_data_uri(sync: openai.OpenAI, files: Files) -> None:
    for url, expected_answer in ((f"{files.url}/1.png", 1), (data_uri(PICTURES[2].encoded()), 2)):
        parts = [{"type": "image_url", "image_url": {"url": url}}, text(DESCRIBE)]
        answer = sync.chat.completions.create(model=MODEL, messages=user(*parts), temperature=0)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == PICTURES[expected_answer].answer()


def test_openai_python_other_routes_and_errors(sync: openai.OpenAI) -> None:
    assert [card.id for card in sync.models.list()] == [MODEL, "zh", "caps"]
    assert sync.models.retrieve("zh").id == "zh"
    assert sync.completions.create(model=MODEL, prompt="2+3=", temperature=0).choices[0].text == "5"
    assert sync.responses.create(model=MODEL, input="2+3=", temperature=0).output_text == "5"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        sync.chat.completions.create(model="nobody", messages=user("a"))  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        sync.completions.create(model=MODEL, prompt="a", temperature=-1)


def test_langchain(frontend: Frontend) -> None:
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(model=MODEL, base_url=frontend.base_url, api_key=SecretStr("none"), temperature=0)
    assert model.invoke("2+3=").content == "5"
    message = HumanMessage(content=[image(), text(DESCRIBE)])  # type: ignore[list-item]
    assert "".join(str(chunk.content) for chunk in model.stream([message])) == PICTURES[0].answer()


# The parameters of the model's configuration


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_parser_tells_reasoning_from_the_answer(frontend: Frontend, streamed: bool) -> None:
    limits = {"structured_outputs": {"choice": [THOUGHT]}, "max_tokens": 200, "stream": streamed}
    answer = frontend.post(CHAT, {"model": MODEL, "messages": user("2+3="), **limits})
    if streamed:
        pieces = [json.loads(event)["choices"][0]["delta"] for event in answer.events if event != "[DONE]"]
    else:
        pieces = [answer.json["choices"][0]["message"]]
    reasoning, content = ("".join(piece.get(field) or "" for piece in pieces) for field in ("reasoning", "content"))
    assert content == ANSWER
    # In a stream vLLM's parser lets the first word of the mark that follows through.
    assert reasoning.startswith(REASONING) if streamed else reasoning == REASONING


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_openai_args_are_arguments_of_vllms_server(frontend: Frontend, path: str) -> None:
    asked = {"messages": user("2+3=")} if path == CHAT else {"prompt": "2+3="}
    assert frontend.post(path, {"model": MODEL, **asked}).json["system_fingerprint"] == FINGERPRINT


def test_messages_of_anthropics_api_are_reached_through_both_ways(frontend: Frontend, client: Client) -> None:
    body = {"model": MODEL, "messages": user("2+3="), "temperature": 0, "max_tokens": 9}
    by_http = frontend.post(MESSAGES, body)
    assert (by_http.status, by_http.json["content"][0]["text"]) == (200, "5")
    by_triton = generate(client, MESSAGES, body).body
    assert json.loads(by_triton["openai_response"])["content"] == by_http.json["content"]


def test_images_of_anthropics_form_go_by_the_same_rules(frontend: Frontend, files: Files) -> None:
    def describe(url: str) -> HttpAnswer:
        messages = user({"type": "image", "source": {"type": "url", "url": url}}, text(DESCRIBE))
        return frontend.post(MESSAGES, {"model": MODEL, "messages": messages, "max_tokens": 60, "temperature": 0})

    answer = describe(f"{files.url}/0.png")
    assert (answer.status, answer.json["content"][0]["text"]) == (200, PICTURES[0].answer())
    hits = files.hits
    refused = describe(files.url.replace("127.0.0.1", "127.0.0.2") + "/0.png")
    assert (refused.status, refused.json["type"]) == (400, "error")
    assert refused.json["error"]["type"] == "invalid_request_error"
    assert refused.json["error"]["message"].startswith("messages[0].content[0].source.url: ")
    assert files.hits == hits


def test_anthropics_client_unchanged(frontend: Frontend) -> None:
    anthropic = pytest.importorskip("anthropic")
    asking = anthropic.Anthropic(base_url=f"http://127.0.0.1:{frontend.port}", api_key="any", max_retries=0)
    data = base64.b64encode(PICTURES[1].encoded()).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    messages = user({"type": "image", "source": source}, text(DESCRIBE))
    asked = {"model": MODEL, "messages": messages, "max_tokens": 60}
    answer = asking.messages.create(**asked, extra_body={"temperature": 0})
    assert answer.content[0].text == PICTURES[1].answer()
    with asking.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == PICTURES[1].answer()
    counted = asking.messages.count_tokens(model=MODEL, messages=messages)
    assert counted.input_tokens == answer.usage.input_tokens
    with pytest.raises(anthropic.BadRequestError) as refused:
        asking.messages.create(**asked, extra_body={"temperature": 7})
    assert refused.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/sleep"),
        ("POST", "/collective_rpc"),
        ("GET", "/server_info"),
        ("GET", "/docs"),
    ],
)
def test_paths_that_are_not_open_are_not_found_by_the_frontend_either(
    frontend: Frontend, method: str, path: str
) -> None:
    body = json.dumps({"model": MODEL, "lora_name": "x", "lora_path": "/"}) if method == "POST" else None
    answer = frontend.call(method, path, body, content_type="application/json")
    assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


# The media rules


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://127.0.0.2:1/0.png", "ALLOWED_MEDIA_DOMAINS"),
        ("file:///etc/hostname", "ALLOWED_LOCAL_MEDIA_PATH"),
        ("data:image/png;base64,AAAA", "not an image"),
    ],
)
def test_media_are_judged_by_the_models_rules(frontend: Frontend, files: Files, url: str, rule: str) -> None:
    hits = files.hits
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in (f"{files.url}/0.png", url)]
    answer = frontend.post(CHAT, {"model": MODEL, "messages": user(*parts, text("2+2="))})
    assert (answer.status, answer.json["error"]["type"]) == (400, "BadRequestError")
    assert answer.json["error"]["message"].startswith("messages[0].content[1].image_url: ")
    assert rule in answer.json["error"]["message"]
    if url.startswith("http:"):  # a path is followed, and judged, where the file is read
        assert files.hits == hits, "all URLs are judged before the first is fetched"


def test_a_client_cannot_name_what_is_in_the_caches(frontend: Frontend) -> None:
    """A picture under the id of another one would be answered from the caches in its place."""
    for index in (0, 1):
        part = {**image(index), "uuid": "the-same"}
        answer = frontend.post(CHAT, {"model": MODEL, "messages": user(part, text(DESCRIBE)), "temperature": 0})
        assert answer.json["choices"][0]["message"]["content"] == PICTURES[index].answer()
    empty = frontend.post(CHAT, {"model": MODEL, "messages": user({"type": "image_url", "uuid": "the-same"})})
    assert empty.status == 400


def test_a_video(frontend: Frontend) -> None:
    part = {"type": "video_url", "video_url": {"url": data_uri(gif(clip(26_100, "left")), "image/gif")}}
    answer = frontend.post(CHAT, chat("", user(part, text("Which way does it move?"))).body)
    assert answer.json["choices"][0]["message"]["content"] == "left"


def test_parts_in_qwens_form(frontend: Frontend) -> None:
    picture = PICTURES[0]
    part = {"type": "image", "image": data_uri(picture.encoded()), "max_pixels": 168 * 168}
    answer = frontend.post(CHAT, chat("", user(part, text(DESCRIBE))).body)
    assert answer.json["choices"][0]["message"]["content"] == picture.answer()
    whole = frontend.post(CHAT, chat("", user(image(), text(DESCRIBE))).body)
    assert answer.json["usage"]["prompt_tokens"] < whole.json["usage"]["prompt_tokens"]
    frames = [data_uri(encode(frame)) for frame in clip(26_100, "left")]
    listed = {"type": "video", "video": frames, "min_pixels": 3136, "max_pixels": 112 * 112}
    answer = frontend.post(CHAT, chat("", user(listed, text("Which way does it move?"))).body)
    assert answer.json["choices"][0]["message"]["content"] == "left"
    wrong = frontend.post(CHAT, chat("", user({**part, "max_pixels": "many"}, text(DESCRIBE))).body)
    assert wrong.status == 400
    assert wrong.json["error"]["message"].startswith("messages[0].content[0].max_pixels: expected a number")


def test_handles_of_other_requests_are_not_to_be_had(frontend: Frontend) -> None:
    part = {"type": "image_url", "image_url": {"url": "vllm-custom-media:0123"}}
    answer = frontend.post(CHAT, {"model": MODEL, "messages": user(part, text("What?"))})
    assert answer.status == 400


# What a Triton request adds


def generate(client: Client, path: str, body: Any, **more: Any) -> Any:
    return client.generate(MODEL, openai_request=json.dumps({"path": path, "body": body, **more}))


def test_openai_request_through_generate(client: Client) -> None:
    answer = generate(client, "/v1/completions", {"model": MODEL, "prompt": "2+3=", "temperature": 0}).body
    assert answer["openai_status"] == 200
    assert json.loads(answer["openai_headers"])["content-type"] == "application/json"
    assert json.loads(answer["openai_response"])["choices"][0]["text"] == "5"


def test_openai_request_streamed_through_generate_stream(client: Client) -> None:
    body = {"model": MODEL, "prompt": "2+3=", "stream": True, "temperature": 0}
    events = client.stream(MODEL, openai_request=json.dumps({"path": "/v1/completions", "body": body}))
    assert events[0]["openai_status"] == 200
    assert all(set(event) & {"openai_status", "openai_headers"} == set() for event in events[1:])
    assert "".join(event["openai_response"] for event in events).endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/sleep", "/metrics", "/invocations", "/v1/messages/batches"]
)
def test_routes_that_are_not_listed_cannot_be_called(client: Client, path: str) -> None:
    answer = generate(client, path, {"lora_name": "x", "lora_path": "/"}).body
    assert (answer["openai_status"], answer["openai_response"]) == (404, '{"detail":"Not Found"}')


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("{", "openai_request: expected a JSON object"),
        ('{"path": 1}', "openai_request.path: expected a path"),
        ('{"path": "/version", "host": "x"}', "openai_request: expected only the keys"),
        ('{"path": "/version", "method": "PUT"}', "openai_request.method: expected GET or POST"),
        ('{"path": "/version", "headers": {"a": 1}}', "openai_request.headers: expected an object of strings"),
    ],
)
def test_a_wrong_envelope_is_explained(client: Client, request_text: str, message: str) -> None:
    answer = client.generate(MODEL, openai_request=request_text).body
    assert answer["openai_status"] == 400
    assert json.loads(answer["openai_response"])["error"]["message"].startswith(message)


def test_other_inputs_and_parameters_are_refused_beside_it(client: Client) -> None:
    asked = json.dumps({"path": "/version"})
    for more in ({"text_input": "a"}, {"max_tokens": 3}, {"lora_name": "zh"}):
        answer = client.generate(MODEL, openai_request=asked, **more).body
        assert (answer["openai_status"], next(iter(more)) in answer["openai_response"]) == (400, True)


def test_a_timeout_ends_a_request(client: Client) -> None:
    asked = json.dumps({"path": "/v1/completions", "body": LONG})
    answer = client.generate(MODEL, openai_request=asked, timeout=300_000).body
    assert answer["openai_status"] == 504
    assert "timeout" in json.loads(answer["openai_response"])["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_frees_the_engine(frontend: Frontend, client: Client, streamed: bool) -> None:
    body = json.dumps({**LONG, "stream": streamed})
    if streamed:
        with frontend.open("POST", "/v1/completions", body, content_type="application/json") as response:
            assert response.read1()
    else:
        connection = frontend.leave("/v1/completions", body)
        wait_until(lambda: frontend.counters()["vllm_custom_frontend_open_requests"] > 1)
        connection.close()
    wait_until(lambda: stands_still(client))


def stands_still(client: Client) -> bool:
    """Whether nothing is generated, as far as the metrics say, for a while that is long for a token."""
    before = client.metrics()[GENERATED]
    threading.Event().wait(1.0)
    return client.metrics()[GENERATED] == before


def test_the_request_id_is_in_the_answer(frontend: Frontend) -> None:
    answer = frontend.post(CHAT, chat("x").body, x_request_id="ours-1")
    assert answer.json["id"] == "chatcmpl-ours-1"


def test_what_slow_readers_get_is_whole(frontend: Frontend) -> None:
    """Many streams at once: events travel together, and none is lost or torn."""
    found: list[list[str]] = []

    def read() -> None:
        body = {**LONG, "max_tokens": 60, "stream": True, "stream_options": {"include_usage": True}}
        found.append(frontend.post("/v1/completions", body).events)

    threads = [threading.Thread(target=read) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == STREAMS
    for events in found:
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["usage"]["completion_tokens"] == 60
