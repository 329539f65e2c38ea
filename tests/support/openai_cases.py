"""Requests of OpenAI's API for `shapes_vl`, of all kinds, to be sent to two servers whose answers must be equal."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.frontend_process import HttpAnswer, HttpApi
from tests.support.shapes import picture

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MODEL = "vllm"
# So that no answer goes on to the end of the context.
LIMIT = 60

PICTURES = [picture(26_000 + index, (224, 224), count=2) for index in range(3)]
# Where the images lie on an HTTP server, whose address takes the place of FILES.
FILES = "http://files.invalid"

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "number": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "number"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "paint", "description": "Paint a shape.", "parameters": SCHEMA},
}
# What the parser "granite" takes for reasoning and for the answer. The model says it where it has no other choice.
REASONING, ANSWER = " two and three are five. ", " 5"
THOUGHT = f"Here is my thought process:{REASONING}Here is my response:{ANSWER}"
# A route that the model's configuration opens.
MESSAGES = "/v1/messages"
OTHER_TOOL = {"type": "function", "function": {"name": "erase", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True)
class Case:
    """One request: a body that is text is sent as it is, None is a GET."""

    name: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(index: int = 0) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(PICTURES[index].encoded())}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def user(*parts: Any) -> list[dict[str, Any]]:
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)
    return [{"role": "user", "content": content}]


def chat(name: str, messages: Any = None, **fields: Any) -> Case:
    given = user("2+3=") if messages is None else messages
    body = {"model": MODEL, "messages": given, "temperature": 0, "max_tokens": LIMIT, **fields}
    return Case(f"chat: {name}", CHAT, body)


def completion(name: str, prompt: Any = "2+3=", **fields: Any) -> Case:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": LIMIT, **fields}
    return Case(f"completion: {name}", COMPLETIONS, body)


def response(name: str, given: Any = "2+3=", **fields: Any) -> Case:
    body = {"model": MODEL, "input": given, "temperature": 0, "max_output_tokens": LIMIT, **fields}
    return Case(f"response: {name}", RESPONSES, body)


# So many are built in a thread.
MANY: dict[str, Any] = {"ignore_eos": True, "max_tokens": 40}
LOGPROBS = ["message.output_text.logprobs"]


def _chats() -> list[Case]:
    picture_and_question = user(image(), text("Describe the image."))
    turns = [*user("2+3="), {"role": "assistant", "content": "5"}, *user("4+4=")]
    stream = {"stream": True}
    return [
        chat("plain"),
        chat("the default length", max_tokens=None),
        chat("parts of text", user(text("2+"), text("3="))),
        chat("a system message", [{"role": "system", "content": "You add numbers."}, *user("2+3=")]),
        chat("several turns", turns),
        chat("the assistant's turn is continued", turns[:2], add_generation_prompt=False, continue_final_message=True),
        chat("echo", echo=True),
        chat("without a prompt for the answer", add_generation_prompt=False, max_tokens=8),
        chat("the model's own defaults", temperature=None, seed=3),
        chat("without a model", model=None),
        chat("warm with a seed", temperature=1.5, seed=7, max_tokens=12),
        chat("top_p and top_k", temperature=0.9, top_p=0.5, top_k=5, seed=11, max_tokens=8),
        chat("min_p and penalties", temperature=0.7, min_p=0.1, repetition_penalty=1.2, seed=2, max_tokens=8),
        chat("presence and frequency", presence_penalty=1.0, frequency_penalty=0.5, ignore_eos=True, max_tokens=10),
        chat("n", n=3, temperature=1.0, seed=5, max_tokens=6),
        chat("max_tokens", picture_and_question, max_tokens=3),
        chat("max_completion_tokens", picture_and_question, max_completion_tokens=4),
        chat("min_tokens", min_tokens=6, max_tokens=10),
        chat("stop", picture_and_question, stop=[","]),
        chat("stop in the output", picture_and_question, stop=" and", include_stop_str_in_output=True),
        chat("stop_token_ids", ignore_eos=True, max_tokens=10, stop_token_ids=[17]),
        chat("logit_bias", logit_bias={"20": -100}, max_tokens=5),
        chat("logprobs", logprobs=True),
        chat("top_logprobs", picture_and_question, logprobs=True, top_logprobs=3, max_tokens=4),
        chat("many logprobs", **MANY, logprobs=True, top_logprobs=20),
        chat("many logprobs of n", **MANY, logprobs=True, top_logprobs=20, n=2, temperature=1.0, seed=5),
        chat("many logprobs and prompt_logprobs", **MANY, logprobs=True, top_logprobs=20, prompt_logprobs=1),
        chat("prompt_logprobs", prompt_logprobs=1, max_tokens=2),
        chat("token ids", return_token_ids=True, max_tokens=4),
        chat("tokens as ids", logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True, max_tokens=3),
        chat("no special tokens skipped", skip_special_tokens=False),
        chat("bad words", picture_and_question, bad_words=["star"], max_tokens=8),
        chat("an unknown field", limit_mm_per_prompt={"image": 30}, nonsense=[1, {"a": None}]),
        chat("fields of OpenAI that change nothing", user="me", store=False, metadata={"a": "b"}, service_tier="auto"),
        chat("chat_template_kwargs", chat_template_kwargs={"enable_thinking": False}),
        chat("a priority", priority=0),
        chat("a picture", picture_and_question),
        chat("a picture after the text", user(text("Describe the image."), image(1))),
        chat("a picture with detail", user({**image(), "image_url": {**image()["image_url"], "detail": "low"}})),
        chat("three pictures", user(image(0), image(1), image(2), text("Describe each image."))),
        chat("a picture by URL", user({"type": "image_url", "image_url": {"url": f"{FILES}/0.png"}}, text("2+2="))),
        chat(
            "URL and data URI",
            user({"type": "image_url", "image_url": {"url": f"{FILES}/1.png"}}, image(2), text("Describe each image.")),
        ),
        chat("an adapter", picture_and_question, model="zh"),
        chat("another adapter", picture_and_question, model="caps"),
        chat("JSON", response_format={"type": "json_object"}, max_tokens=30),
        chat(
            "JSON of a schema", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        ),
        chat("text as response_format", response_format={"type": "text"}),
        chat("a choice", structured_outputs={"choice": ["yes", "no"]}),
        chat("a regular expression", structured_outputs={"regex": "[a-c]{3}"}),
        chat("reasoning", structured_outputs={"choice": [THOUGHT]}, max_tokens=200),
        chat(
            "reasoning is left out", structured_outputs={"choice": [THOUGHT]}, max_tokens=200, include_reasoning=False
        ),
        chat(
            "a tool by name",
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "paint"}},
            max_tokens=200,
        ),
        chat("some tool", tools=[TOOL, OTHER_TOOL], tool_choice="required", max_tokens=200),
        chat("tools if the model likes", tools=[TOOL], tool_choice="auto"),
        chat("tools and none", tools=[TOOL], tool_choice="none"),
        chat("one tool at a time", tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=200),
        chat("streamed", **stream),
        chat("streamed with usage", stream_options={"include_usage": True}, **stream),
        chat(
            "streamed with usage in each",
            stream_options={"include_usage": True, "continuous_usage_stats": True},
            **stream,
        ),
        chat("streamed picture", picture_and_question, **stream),
        chat("streamed n", n=2, temperature=1.0, seed=4, max_tokens=5, **stream),
        chat("streamed logprobs", picture_and_question, logprobs=True, top_logprobs=2, max_tokens=5, **stream),
        chat("streamed adapter", picture_and_question, model="zh", **stream),
        chat("streamed stop", picture_and_question, stop=[","], **stream),
        chat("streamed tool", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "paint"}}, **stream),
        chat("streamed JSON", structured_outputs={"json": SCHEMA}, max_tokens=40, **stream),
        chat("streamed echo", echo=True, **stream),
    ]


def _completions() -> list[Case]:
    return [
        completion("plain"),
        completion("the default length", max_tokens=None),
        completion("several prompts", ["2+3=", "4+4="]),
        completion("token ids", [17, 10, 18, 28]),
        completion("several lists of token ids", [[17, 10, 18, 28], [18, 10, 18, 28]]),
        completion("echo", echo=True),
        completion("echo and logprobs", echo=True, logprobs=1, max_tokens=1),
        completion("logprobs", logprobs=2, max_tokens=3),
        completion("many logprobs", ["2+3=", "4+4="], **MANY, logprobs=20),
        completion("many logprobs and echo", **MANY, logprobs=20, echo=True, stop=["\n\n\n"]),
        completion("streamed many logprobs", **MANY, logprobs=20, stream=True),
        completion("prompt_logprobs", prompt_logprobs=0, max_tokens=1),
        completion("n", n=2, temperature=1.0, seed=9, max_tokens=4),
        completion("stop", "Count", stop=["a", "e"], max_tokens=20, ignore_eos=True),
        completion("truncated", "2+3=2+3=2+3=", truncate_prompt_tokens=4),
        completion("an adapter", model="caps", max_tokens=4),
        completion("structured", structured_outputs={"regex": "[0-9]{4}"}),
        completion("an unknown field", best=1),
        completion("streamed", stream=True),
        completion("streamed with usage", ["2+3=", "1+1="], stream=True, stream_options={"include_usage": True}),
        completion("streamed echo", stream=True, echo=True, max_tokens=2),
        completion("streamed logprobs", stream=True, logprobs=1, max_tokens=3),
    ]


def _responses() -> list[Case]:
    seen = {"type": "input_image", "image_url": data_uri(PICTURES[0].encoded()), "detail": "auto"}
    asked = [{"role": "user", "content": [seen, {"type": "input_text", "text": "Describe the image."}]}]
    return [
        response("plain"),
        response("instructions", instructions="You add numbers."),
        response("max_output_tokens", "Describe", max_output_tokens=2),
        response("logprobs", include=LOGPROBS, top_logprobs=2, max_output_tokens=3),
        response("many logprobs", include=LOGPROBS, top_logprobs=20, ignore_eos=True, max_output_tokens=40),
        response("turns", [*user("2+3="), {"role": "assistant", "content": "5"}, *user("1+1=")]),
        response("a picture", asked),
        response("a schema", text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}),
        response("metadata", metadata={"a": "b"}, store=False),
        response("reasoning", structured_outputs={"choice": [THOUGHT]}, max_output_tokens=200),
        response("streamed", stream=True),
        response("streamed picture", asked, stream=True),
    ]


def _others() -> list[Case]:
    named = {"model": MODEL}
    return [
        Case("tokenize a prompt", "/tokenize", {**named, "prompt": "2+3="}),
        Case("tokenize with strings", "/tokenize", {**named, "prompt": "2+3=", "return_token_strs": True}),
        Case("tokenize messages", "/tokenize", {**named, "messages": user("2+3=")}),
        Case("tokenize a picture", "/tokenize", {**named, "messages": user(image(), text("What?"))}),
        Case("detokenize", "/detokenize", {**named, "tokens": [17, 10, 18, 28]}),
        Case("version", "/version"),
        Case(
            "a path of OPENAI_PATHS", MESSAGES, {**named, "messages": user("2+3="), "temperature": 0, "max_tokens": 9}
        ),
    ]


def _errors() -> list[Case]:
    many = [image() for _ in range(31)]
    tool_choice = {"type": "function", "function": {"name": "nothing"}}
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    return [
        chat("error: an unknown model", model="nobody"),
        chat("error: temperature", temperature=-1),
        chat("error: top_p", top_p=2),
        chat("error: max_tokens 0", max_tokens=0),
        chat("error: a type", max_tokens="many"),
        chat("error: n", n=0),
        chat("error: too long", user("2+3=" * 4000)),
        chat("error: too many tokens", max_tokens=9000),
        chat("error: no messages", []),
        Case("chat: error: messages missing", CHAT, {"model": MODEL}),
        chat("error: messages are text", "2+3="),
        chat("error: no role", [{"content": "2+3="}]),
        chat("error: an unknown part", user({"type": "smell", "smell": "rose"})),
        chat("error: too many pictures", user(*many, text("Describe each image."))),
        chat("error: a picture without URL", user({"type": "image_url"})),
        chat("error: a URL of another scheme is no URL", user({"type": "image_url", "image_url": {"url": 5}})),
        chat("error: sound", user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
        chat("error: top_logprobs without logprobs", top_logprobs=2),
        chat("error: too many logprobs", logprobs=True, top_logprobs=100),
        chat("error: a schema", response_format=broken),
        chat("error: a regular expression", structured_outputs={"regex": "(["}),
        chat("error: two constraints", structured_outputs={"regex": "a", "choice": ["a"]}),
        chat("error: a tool that is not there", tools=[TOOL], tool_choice=tool_choice),
        chat("error: tool_choice without tools", tool_choice="required"),
        chat("error: stream_options without stream", stream_options={"include_usage": True}),
        chat("error: streamed, an unknown model", model="nobody", stream=True),
        chat("error: streamed, temperature", temperature=-1, stream=True),
        completion("error: no prompt", None),
        completion("error: an empty list", []),
        completion("error: a token id", [100_000]),
        completion("error: suffix", suffix="x"),
        completion("error: logprobs", logprobs=-2),
        response("error: an unknown model", model="nobody"),
        response("error: an unknown response", previous_response_id="resp_1"),
        Case("error: no JSON", CHAT, '{"model": "vllm", '),
        Case("error: a list", CHAT, "[1, 2]"),
        Case("error: nothing", CHAT, ""),
        Case("error: another content type", CHAT, '{"model": "vllm"}', {"content_type": "text/plain"}),
        Case("error: embeddings of a model that generates", "/v1/embeddings", {"model": MODEL, "input": "a"}),
        Case("error: an unknown path", "/v1/nothing", {"model": MODEL}),
        Case("error: the wrong method", CHAT),
        Case("error: a path of OPENAI_PATHS", MESSAGES, {"model": MODEL, "messages": user("2+3=")}),
        Case("error: the wrong method of a path of OPENAI_PATHS", MESSAGES),
        Case("error: detokenize", "/detokenize", {"model": MODEL, "tokens": "x"}),
        Case("error: tokenize", "/tokenize", {"model": "nobody", "prompt": "a"}),
    ]


CASES = [*_chats(), *_completions(), *_responses(), *_others(), *_errors()]


def send(api: HttpApi, case: Case, files_url: str) -> HttpAnswer:
    """The answer to ``case``, with the images on the server at ``files_url``."""
    if case.body is None:
        return api.get(case.path)
    return api.post(case.path, with_files(case, files_url), **case.headers)


def with_files(case: Case, url: str) -> Any:
    """The body of ``case`` with the address of the server that has the images."""
    return json.loads(json.dumps(case.body).replace(FILES, url)) if not isinstance(case.body, str) else case.body
