"""Requests for `shapes_vl` that `vllm serve` and Triton have to answer alike, in each one's own form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support import openai_cases
from tests.support.bodies import b64
from tests.support.frontend_process import HttpAnswer, HttpApi
from tests.support.openai_cases import CHAT, COMPLETIONS, MODEL
from tests.support.shapes import picture

DESCRIBE = "Describe the image."
PICTURES = [picture(24_000 + index, (224, 224)) for index in range(3)]


@dataclass(frozen=True)
class Case:
    """One request: fields that both servers call alike, and a prompt, or a question with images."""

    name: str
    fields: dict[str, Any]
    prompt: str = "2+3="
    pictures: tuple[bytes, ...] = ()
    chat: bool = False
    adapter: str | None = None

    @property
    def templated(self) -> bool:
        return self.chat or bool(self.pictures)


@dataclass(frozen=True)
class Result:
    """What is compared, one element per sequence."""

    texts: list[str]
    finish_reasons: list[str]
    stop_reasons: list[str]
    input_tokens: int
    output_tokens: int
    logprobs: list[float] = field(compare=False, default_factory=list)


def text(name: str, prompt: str = "a red", **fields: Any) -> Case:
    return Case(name, fields, prompt)


def chat(name: str, prompt: str = "How many shapes are there?", **fields: Any) -> Case:
    return Case(name, fields, prompt, chat=True)


def look(name: str, prompt: str = DESCRIBE, pictures: int = 1, adapter: str | None = None, **fields: Any) -> Case:
    return Case(name, fields, prompt, tuple(drawn.encoded() for drawn in PICTURES[:pictures]), adapter=adapter)


HOT = {"temperature": 2.0, "seed": 11, "max_tokens": 40, "ignore_eos": True}
CASES = [
    text("the defaults", seed=1),
    text("the defaults again", "a red", seed=2),
    text("greedy", temperature=0),
    text("greedy, long", "1+1=", temperature=0, max_tokens=50, ignore_eos=True),
    text("hot", **HOT),
    text("hotter", temperature=2.0, seed=12, max_tokens=40),
    text("warm", temperature=0.7, seed=13, max_tokens=40, ignore_eos=True),
    text(
        "no default applies",
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        seed=14,
        max_tokens=40,
        ignore_eos=True,
    ),
    text("top_k", **HOT, top_k=5),
    text("top_k of one", "3+4=", **HOT, top_k=1),
    text("top_p", **HOT, top_p=0.5),
    text("top_k and top_p", **HOT, top_k=20, top_p=0.8),
    text("min_p", **HOT, min_p=0.2),
    text("repetition_penalty", **HOT, repetition_penalty=1.8),
    text("presence_penalty", **HOT, presence_penalty=1.5),
    text("frequency_penalty", **HOT, frequency_penalty=-0.7),
    text("several penalties", **HOT, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.2),
    text("n", **HOT, n=3),
    text("n, greedy", temperature=0, n=1, max_tokens=5),
    text("n of many tokens", "a blue square and", temperature=1.2, seed=15, n=4, max_tokens=25),
    text("stop", **HOT, stop=["a", "e"]),
    text("one stop", **(HOT | {"seed": 16}), stop="o"),
    text("stop that is kept", **HOT, stop=["a", "e"], include_stop_str_in_output=True),
    text("stop of several characters", "a red", temperature=0, max_tokens=40, stop=[" a", "nd"]),
    text("stop_token_ids", **HOT, stop_token_ids=list(range(60, 100))),
    text("n with stops", **HOT, n=3, stop=["a", "s", "1"]),
    text("min_tokens", **(HOT | {"ignore_eos": False}), min_tokens=20),
    text("max_tokens of one", **(HOT | {"max_tokens": 1})),
    text("many tokens", **(HOT | {"max_tokens": 500})),
    text("it may end", **(HOT | {"ignore_eos": False})),
    text("special tokens are shown", **(HOT | {"seed": 18}), skip_special_tokens=False),
    text("logit_bias", temperature=0, max_tokens=10, ignore_eos=True, logit_bias={"20": 100, "30": 99.5}),
    text("logit_bias beyond its range", temperature=0, max_tokens=10, ignore_eos=True, logit_bias={"21": 5000}),
    text("bad_words", **HOT, bad_words=["a", "5", " red"]),
    text("allowed_token_ids", **HOT, allowed_token_ids=list(range(15, 40))),
    text("logprobs", **HOT, logprobs=3),
    text("logprobs of n", **HOT, logprobs=1, n=2),
    text("logprobs, greedy", temperature=0, logprobs=0, max_tokens=12, ignore_eos=True),
    text("another language", "描述", **HOT),
    text("structured_outputs", **HOT, structured_outputs={"regex": "[a-f]{3}-[0-9]{4}"}),
    chat("a chat"),
    chat("a hot chat", **HOT),
    chat("a chat with logprobs", **HOT, logprobs=2),
    chat("a chat with n", **HOT, n=2),
    look("a picture", temperature=0),
    look("a picture, hot", **HOT),
    look("two pictures", "Describe each image.", 2, temperature=0),
    look("a picture, in Chinese, n", "描述这张图片。", temperature=1.3, seed=17, n=3),
    look("a picture with stops", temperature=0, stop=[",", " and"]),
    look("a picture and a choice", **HOT, structured_outputs={"choice": ["a dog", "a cat", "a bird"]}),
    look("a picture and an adapter", adapter="zh", temperature=0),
    look("a picture and another adapter, hot", adapter="caps", **HOT),
    look("a picture and a limit", **(HOT | {"max_tokens": 3})),
]


def ask(server: HttpApi, case: Case) -> Result:
    """What vLLM's own server answers."""
    return _chat(server, case) if case.templated else _complete(server, case)


def _complete(server: HttpApi, case: Case) -> Result:
    body = _post(server, COMPLETIONS, {"model": MODEL, "prompt": case.prompt, **case.fields})
    scores = [choice["logprobs"]["token_logprobs"] for choice in body["choices"] if choice.get("logprobs")]
    return _result(body, [choice["text"] for choice in body["choices"]], scores)


def _chat(server: HttpApi, case: Case) -> Result:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(data)}"}} for data in case.pictures
    ]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": case.prompt}]}
    fields = dict(case.fields)
    if "logprobs" in fields:
        fields |= {"logprobs": True, "top_logprobs": fields["logprobs"]}
    body = _post(server, CHAT, {"model": case.adapter or MODEL, "messages": [message], **fields})
    texts = [choice["message"]["content"] or "" for choice in body["choices"]]
    scores = [
        [entry["logprob"] for entry in choice["logprobs"]["content"]]
        for choice in body["choices"]
        if choice.get("logprobs")
    ]
    return _result(body, texts, scores)


def _post(server: HttpApi, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(path, body)
    assert answer.status == 200, (body, answer.body)
    found: dict[str, Any] = answer.json
    return found


def _result(body: dict[str, Any], texts: list[str], scores: list[list[float]]) -> Result:
    return Result(
        texts,
        [choice["finish_reason"] for choice in body["choices"]],
        [str(choice["stop_reason"]) for choice in body["choices"]],
        body["usage"]["prompt_tokens"],
        body["usage"]["completion_tokens"],
        [score for sequence in scores for score in sequence],
    )


OUTPUTS = ("finish_reason", "stop_reason", "logprobs", "num_input_tokens", "num_output_tokens")


def triton_body(case: Case) -> dict[str, Any]:
    """The request for generate: what is a list or an object travels as JSON."""
    fields = {
        key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in case.fields.items()
    }
    body = {"text_input": case.prompt, "exclude_input_in_output": True, "parameters": fields}
    body |= {f"return_{name}": True for name in OUTPUTS}
    if case.pictures:
        body["image"] = [b64(data) for data in case.pictures]
    if case.chat:
        fields["apply_chat_template"] = True
    if case.adapter:
        fields["lora_name"] = case.adapter
    return body


def result_of(events: list[dict[str, Any]]) -> Result:
    """One answer, or the events of a stream put together."""
    texts = ["".join(parts) for parts in zip(*(as_list(event["text_output"]) for event in events), strict=True)]
    scores: list[list[float]] = [[] for _ in texts]
    for event in events:
        for sequence, encoded in zip(scores, as_list(event["logprobs"]), strict=True):
            sequence += [next(iter(token.values()))["logprob"] for token in json.loads(encoded) or []]
    reasons = {
        name: [final(parts) for parts in zip(*(as_list(event[name]) for event in events), strict=True)]
        for name in ("finish_reason", "stop_reason")
    }
    return Result(
        texts,
        reasons["finish_reason"],
        reasons["stop_reason"],
        events[0]["num_input_tokens"],
        sum(sum(as_list(event["num_output_tokens"])) for event in events),
        [score for sequence in scores for score in sequence],
    )


def as_list(value: Any) -> list[Any]:
    """Triton's JSON has no lists of one element."""
    return value if isinstance(value, list) else [value]


def final(parts: tuple[Any, ...]) -> str:
    """The reason that ended a sequence, which only one of its pieces has."""
    return next((str(part) for part in parts if str(part) != "None"), "None")


@dataclass(frozen=True)
class ServeAnswers:
    """What vLLM's own server answers, by the names of the cases: those here, and those of openai_cases."""

    native: dict[str, Result]
    openai: dict[str, HttpAnswer]

    @classmethod
    def of(cls, server: HttpApi, files_url: str) -> ServeAnswers:
        """Ask it all; ``files_url``: where images lie."""
        native = {case.name: ask(server, case) for case in CASES}
        openai = {case.name: openai_cases.send(server, case, files_url) for case in openai_cases.CASES}
        return cls(native, openai)
