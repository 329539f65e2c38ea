"""Mistakes are answered with a code and a message that names the field, and disturb nothing else.

Over plain gRPC calls, where each code has a status of its own.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.support.client import Client
from tests.support.servers import ADAPTERS, SHARED_MODEL, Loads, Repository, wait_until
from tests.support.shapes import picture
from tools.installer.server import TritonServer

pytestmark = pytest.mark.any_base

MODEL = "mistakes"
CONFIG = (
    SHARED_MODEL
    + """
model_transaction_policy { decoupled: false }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "stop" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "seed" data_type: TYPE_INT64 dims: [ -1 ] optional: true }
]
parameters { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }
"""
)
IMAGE = picture(21_001, count=1).encoded()
PAD = "<|vision_start|><|image_pad|><|vision_end|>"
INVALID, NOT_FOUND, UNSUPPORTED, UNAVAILABLE = "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE"
# The status of gRPC to the code of Triton, by which failures are counted.
TRITON_CODE = {INVALID: "INVALID_ARG", UNSUPPORTED: "UNSUPPORTED"}


@dataclass(frozen=True)
class Bad:
    """A request, and what is said about it: its status, and words that the message holds."""

    name: str
    words: tuple[str, ...]
    tensors: dict[str, Any]
    parameters: dict[str, Any]
    status: str = INVALID


def asks(name: str, *words: str, status: str = INVALID, **parameters: Any) -> Bad:
    """A prompt with parameters."""
    return Bad(name, words, {"text_input": "a"}, parameters, status)


def carries(name: str, *words: str, status: str = INVALID, **parameters: Any) -> Bad:
    """Parameters that the client library keeps for itself, in the input for them."""
    return sends(name, *words, status=status, text_input="a", sampling_parameters=json.dumps(parameters))


def sends(name: str, *words: str, status: str = INVALID, **tensors: Any) -> Bad:
    """Input tensors."""
    return Bad(name, words, tensors, {}, status)


def looks(name: str, *words: str, text_input: str = "a", **media: list[bytes | str]) -> Bad:
    """A prompt with media."""
    return Bad(name, words, {"text_input": text_input, **media}, {})


def says(name: str, *words: str, content: Any = None, role: str = "user", **parameters: Any) -> Bad:
    """One chat message."""
    return Bad(name, words, {"messages": json.dumps([{"role": role, "content": content}])}, parameters)


def huge_png() -> bytes:
    """12,000 x 12,000 pixels in a third of a megabyte."""
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    return buffer.getvalue()


def link(url: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}]


BAD = [
    # The prompt
    sends("no prompt", "text_input", "messages", image=[IMAGE]),
    sends("both prompts", "text_input", "messages", text_input="a", messages='[{"role": "user", "content": "b"}]'),
    sends("two prompts", "text_input", "2 elements", "exactly 1", text_input=["a", "b"]),
    sends("a prompt that is no UTF-8", "text_input", "UTF-8", text_input=[b"\xff\xfe"]),
    sends("a prompt that is too long", "8192", text_input="1+1=" * 9000),
    sends("messages that are no JSON", "messages", "JSON list", "'hello'", messages="hello"),
    sends("no messages", "messages", "non-empty", "[]", messages="[]"),
    sends("messages that are numbers", "messages", "objects", "[1]", messages="[1]"),
    sends("messages with images beside them", "image", "messages", messages='[{"role": "user"}]', image=[IMAGE]),
    says("an unknown role", "messages[0].role", "'robot'", "assistant", content="a", role="robot"),
    says("an unknown part", "messages[0].content[0].type", "'picture'", "image_url", content=[{"type": "picture"}]),
    says("a part of vLLM's own", "image_pil", content=[{"type": "image_pil", "image_pil": "a"}]),
    says("content that is a number", "messages[0].content", "5", content=5),
    says("an image part without url", "messages[0].content[0]", "url", content=[{"type": "image_url"}]),
    says(
        "an image part by http", "messages[0].content[0].image_url", "not allowed", content=link("http://127.0.0.1/a")
    ),
    says("a forged handle", "messages[0].content[0].image_url", "not allowed", content=link("vllm-custom-media:0")),
    says("messages without their template", "apply_chat_template", "messages", content="a", apply_chat_template=False),
    # Media
    looks("not base64", "image[0]", "base64", image=["%%%"]),
    looks("base64 of no image", "image[1]", "not an image", image=[IMAGE, "aGVsbG8="]),
    looks("a truncated image", "image[0]", "truncated", image=[IMAGE[: len(IMAGE) // 2]]),
    looks("an empty image", "image[0]", "empty", image=[""]),
    looks("a pixel bomb", "image[0]", "144000000", "IMAGE_MAX_PIXELS", image=[huge_png()]),
    looks("an image by http", "image[0]", "http:", "not allowed", image=["http://127.0.0.1/a.png"]),
    looks("an image from a file", "image[0]", "file:", "not allowed", image=["file:///etc/passwd"]),
    looks("an image by ftp", "image[0]", "ftp", image=["ftp://127.0.0.1/a.png"]),
    looks("a data URI of no image", "image[0]", "not an image", image=["data:image/png,abc"]),
    looks("too many images", "image", "30", "31", image=[IMAGE] * 31),
    looks("too few placeholders", "text_input", "2 image", "got 1", text_input=f"{PAD}a", image=[IMAGE] * 2),
    looks("a placeholder without image", "text_input", "0 image", "got 1", text_input=f"{PAD}a"),
    looks("not a video", "video[0]", video=["aGVsbG8="]),
    # Parameters and their forms
    asks("an unknown parameter", "temprature", "did you mean temperature?", temprature=0),
    asks("vLLM's own field", "unknown parameter 'output_kind'", output_kind=1),
    asks("a negative temperature", "temperature", "-1", temperature=-1),
    asks("text for a number", "max_tokens", "'many'", "integer", max_tokens="many"),
    asks("a list for a number", "temperature", "[1]", "number", temperature="[1]"),
    asks("a number that is no number", "temperature", "'nan'", temperature="nan"),
    asks("zero max_tokens", "max_tokens", "0", max_tokens=0),
    asks("more min_tokens than max_tokens", "min_tokens", "20", "10", min_tokens=20, max_tokens=10),
    asks("top_p above one", "top_p", "1.5", top_p=1.5),
    asks("top_k below -1", "top_k", "-5", top_k=-5),
    asks("min_p above one", "min_p", "2", min_p=2.0),
    asks("a repetition penalty of zero", "repetition_penalty", "0", repetition_penalty=0.0),
    asks("a presence penalty of three", "presence_penalty", "3", presence_penalty=3.0),
    asks("a frequency penalty of minus three", "frequency_penalty", "-3", frequency_penalty=-3.0),
    asks("no sequences", "n", "0", n=0),
    asks("too many sequences", "n", "100000", n=100_000),
    asks("a seed beyond 64 bits", "seed", "64-bit", seed=str(2**70)),
    asks("more logprobs than allowed", "logprobs", "1000", "20", logprobs=1000),
    asks("an empty stop string", "stop", "empty", stop='["a", ""]'),
    asks("a stop token beyond the vocabulary", "stop_token_ids", "999999", min_tokens=2, stop_token_ids="[999999]"),
    asks("an allowed token beyond the vocabulary", "allowed_token_ids", "999999", allowed_token_ids="[999999]"),
    asks("a biased token beyond the vocabulary", "logit_bias", "999999", logit_bias='{"999999": 1}'),
    asks("a bias that is text", "logit_bias", "high", logit_bias='{"5": "high"}'),
    asks("bad words that are numbers", "bad_words", "[1]", bad_words="[1]"),
    carries("a priority that is text", "priority", "'soon'", "integer", priority="soon"),
    carries("a negative timeout", "timeout", "-1", "greater", timeout=-1),
    asks("chat_template_kwargs that are no object", "chat_template_kwargs", "dict", chat_template_kwargs="[1]"),
    asks("a template that is no flag", "apply_chat_template", "'maybe'", "boolean", apply_chat_template="maybe"),
    sends(
        "sampling_parameters that are no JSON", "sampling_parameters", "'{'", text_input="a", sampling_parameters="{"
    ),
    sends("sampling_parameters in a list", "sampling_parameters", "object", text_input="a", sampling_parameters="[]"),
    sends("two seeds", "seed", "exactly 1", "2 elements", text_input="a", seed=[1, 2]),
    sends("a typed value out of range", "max_tokens", "-4", text_input="a", max_tokens=[-4]),
    # Guided decoding
    asks("an unknown constraint", "structured_outputs", "'x'", "regex", structured_outputs='{"x": 1}'),
    asks("two constraints", "guided_choice", "guided_regex", "one", guided_regex="a", guided_choice='["b"]'),
    asks("a regex that is open", "guided_regex", "unterminated", "position 1", guided_regex="(("),
    asks("a schema of no type", "guided_json", "$.type", "'objekt'", guided_json='{"type": "objekt"}'),
    asks("a schema that is no JSON", "guided_json", "JSON value", "'{'", guided_json="{"),
    asks("a grammar without its rule", "guided_grammar", "cannot be compiled", guided_grammar="root ::= b"),
    asks("no choices", "guided_choice", "empty", guided_choice="[]"),
    asks("an unknown response format", "response_format.type", "'xml'", "text", response_format='{"type": "xml"}'),
    # What is not there, what is not done, what takes too long
    asks("an unknown adapter", "LoRA fr", "'caps', 'zh'", status=NOT_FOUND, lora_name="fr"),
    sends("a stream", "stream: true", "decoupled", status=UNSUPPORTED, text_input="a", stream=[True]),
    asks("a field of pooling models", "dimensions", "pooling", status=UNSUPPORTED, dimensions=8),
    sends("an embedding", "embedding_request", "pooling", status=UNSUPPORTED, embedding_request='{"input": "a"}'),
    carries("a microsecond", "timeout", "1 microseconds", status=UNAVAILABLE, timeout=1),
]
DATATYPES = {"int64": "INT64", "int32": "INT32", "bool": "BOOL", "object": "BYTES"}


def tensor(name: str, value: Any) -> grpcclient.InferInput:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], (str, bytes)):
        array = np.array([item.encode() if isinstance(item, str) else item for item in values], dtype=np.object_)
    else:
        array = np.array(values, dtype=np.int32 if name == "max_tokens" else None)
    made = grpcclient.InferInput(name, array.shape, DATATYPES[str(array.dtype)])
    made.set_data_from_numpy(array)
    return made


@pytest.fixture(scope="module")
def mistakes(repository: Repository, load: Loads) -> None:
    arguments = repository.shapes_args(enable_lora=True, max_loras=3, max_lora_rank=16)
    repository.add(MODEL, CONFIG, arguments, multi_lora__json=json.dumps(ADAPTERS))
    load(MODEL)


@dataclass(frozen=True)
class Found:
    """All bad requests at once, a good one beside each."""

    bad: dict[str, InferenceServerException | None]
    good: list[str]


@pytest.fixture(scope="module")
def found(triton: TritonServer, client: Client, mistakes: None) -> Found:
    def bad(connection: grpcclient.InferenceServerClient, case: Bad) -> InferenceServerException | None:
        inputs = [tensor(*item) for item in case.tensors.items()]
        try:
            connection.infer(MODEL, inputs, parameters=case.parameters, client_timeout=120)
        except InferenceServerException as error:
            return error
        return None

    def good(_: Bad) -> str:
        image = base64.b64encode(IMAGE).decode()
        return client.generate(MODEL, text_input="Describe the image.", image=[image], max_tokens=[4]).text

    with ThreadPoolExecutor(8) as pool, grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        jobs = {case.name: pool.submit(bad, connection, case) for case in BAD}
        beside = list(pool.map(good, BAD))
        return Found({name: job.result() for name, job in jobs.items()}, beside)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_request(found: Found, case: Bad) -> None:
    error = found.bad[case.name]
    assert error is not None, "it was served"
    assert error.status() == f"StatusCode.{case.status}", error
    assert [word for word in case.words if word not in error.message()] == [], error.message()
    assert "Traceback" not in error.message()


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len({case.name for case in BAD}) == len(BAD) >= 60


def test_good_requests_beside_them_are_not_disturbed(found: Found) -> None:
    assert found.good == [" 0 1 2 3"] * len(BAD)


def test_they_are_counted_by_code(found: Found, client: Client) -> None:
    expected = Counter(TRITON_CODE.get(case.status, case.status) for case in BAD)

    def counted() -> dict[str, float]:
        labels = f'model="{MODEL}",version="1"'
        names = {code: f'vllm_custom:requests_failed_total{{code="{code}",{labels}}}' for code in expected}
        samples = client.metrics()
        return {code: samples.get(name, 0) for code, name in names.items()}

    wait_until(lambda: counted() == dict(expected))
    assert client.metrics()[f'vllm_custom:requests_success_total{{model="{MODEL}",version="1"}}'] == len(found.good)


@pytest.mark.parametrize("shape", [[2**40], [2**63], [2**32 + 1]])
def test_a_shape_beyond_all_bounds_is_refused(client: Client, found: Found, shape: list[int]) -> None:
    """Over HTTP: gRPC compares bytes and shape. Of numbers it ends tritonserver itself (docs/security.md)."""
    text = {"name": "text_input", "datatype": "BYTES", "shape": shape, "data": ["2+3="]}
    answer = client.infer(MODEL, [text])
    assert answer.status == 400, answer.body
    assert found.good
