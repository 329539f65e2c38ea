"""Structured outputs, adapters that come and go, and outputs of the engine."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.client import Client
from tests.support.constraints import GRAMMARS, REGEXES, follows, random_object
from tests.support.openai_cases import MODEL
from tests.support.servers import SHAPES_VL, Repository
from tests.support.shapes import picture
from tests.support.superset import COMPILE_SECONDS, adapters_folder

pytestmark = pytest.mark.usefixtures("superset")

PICTURE = picture(23_000, (224, 224), count=2)
IMAGE = base64.b64encode(PICTURE.encoded()).decode()
AT_ONCE = 8
# How old the listing of LORA_DIR may be.
LISTING_AGE_SECONDS = 1.1
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "number": {"type": "integer", "minimum": 0, "maximum": 99},
        "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["colour", "number", "flags"],
    "additionalProperties": False,
}


def is_of_schema(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


def is_json_object(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


OPENAI_SCHEMA = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA}}
GUIDED = [
    pytest.param({"guided_json": json.dumps(SCHEMA)}, is_of_schema, id="json"),
    pytest.param({"response_format": json.dumps(OPENAI_SCHEMA)}, is_of_schema, id="openai-schema"),
    pytest.param({"guided_regex": "[a-f]{3}-[0-9]{4}"}, matches("[a-f]{3}-[0-9]{4}"), id="regex"),
    pytest.param({"guided_choice": '["left", "right"]'}, matches("left|right"), id="choice"),
    pytest.param(
        {"guided_grammar": 'root ::= item "," item\nitem ::= "yes" | "no"'}, matches("(yes|no),(yes|no)"), id="grammar"
    ),
    pytest.param({"structured_outputs": '{"regex": "[0-9]{3}"}'}, matches("[0-9]{3}"), id="official"),
]
# Minutes of xgrammar's time.
SLOW_GRAMMAR = "root ::= " + " ".join(f'([a-z]{{0,{index}}} "x")?' for index in range(1, 600))
REQUEST = {"text_input": "Describe the image.", "apply_chat_template": True, "max_tokens": 200, "temperature": 1.0}


@pytest.fixture(scope="class")
def adapter(repository: Repository) -> Iterator[str]:
    folder = adapters_folder(repository) / "guided"
    put_adapter(folder, "zh")
    time.sleep(LISTING_AGE_SECONDS)
    yield folder.name
    shutil.rmtree(folder)


WAYS = ("plain", "streamed", "picture", "three", "adapter")


def ask_each(client: Client, way: str, adapter: str, constraints: list[dict[str, str]]) -> list[list[str]]:
    """The texts that come back for each of the constraints, several requests at a time."""
    ways: dict[str, dict[str, Any]] = {
        "picture": {"image": [IMAGE]},
        "three": {"n": 3},
        "adapter": {"lora_name": adapter},
    }
    more = ways.get(way, {})

    def ask(constraint: dict[str, str]) -> list[str]:
        body = REQUEST | {"max_tokens": 600} | more | constraint
        if way == "streamed":
            return ["".join(event["text_output"] for event in client.stream(MODEL, **body))]
        answer = client.generate(MODEL, **body)
        assert answer.status == 200, (constraint, answer.body)
        found = answer.body["text_output"]
        assert isinstance(found, list) == (way == "three")
        return found if isinstance(found, list) else [found]

    sequences = more.get("n", 1)  # each takes a place
    with ThreadPoolExecutor(AT_ONCE // sequences) as pool:
        return list(pool.map(ask, constraints))


class TestGuidedDecoding:
    @pytest.mark.parametrize(("constraint", "holds"), GUIDED)
    def test_one_answer(self, client: Client, constraint: dict[str, str], holds: Callable[[str], bool]) -> None:
        answer = client.generate(MODEL, **REQUEST, **constraint)
        assert answer.status == 200, answer.body
        assert holds(answer.text), answer.text

    @pytest.mark.parametrize(("constraint", "holds"), GUIDED)
    def test_streamed(self, client: Client, constraint: dict[str, str], holds: Callable[[str], bool]) -> None:
        text = "".join(event["text_output"] for event in client.stream(MODEL, **REQUEST, **constraint))
        assert holds(text), text

    @pytest.mark.parametrize(("constraint", "holds"), GUIDED)
    def test_three_answers_about_an_image(
        self, client: Client, constraint: dict[str, str], holds: Callable[[str], bool]
    ) -> None:
        answer = client.generate(MODEL, **REQUEST, **constraint, image=[IMAGE], n=3)
        assert answer.status == 200, answer.body
        assert len(answer.body["text_output"]) == 3
        assert all(holds(text) for text in answer.body["text_output"]), answer.body

    def test_three_answers_about_an_image_streamed(self, client: Client) -> None:
        events = client.stream(MODEL, **REQUEST, guided_json=json.dumps(SCHEMA), image=[IMAGE], n=3)
        texts = ["".join(parts) for parts in zip(*(event["text_output"] for event in events), strict=True)]
        assert len(texts) == 3
        assert all(is_of_schema(text) for text in texts)

    @pytest.mark.parametrize("way", WAYS)
    def test_schemas(self, client: Client, adapter: str, way: str) -> None:
        """Twelve in each way: sixty together."""
        first = 12 * WAYS.index(way)
        schemas = [random_object(random.Random(seed), depth=2) for seed in range(first, first + 12)]
        asked = [{"guided_json": json.dumps(schema)} for schema in schemas]
        for schema, texts in zip(schemas, ask_each(client, way, adapter, asked), strict=True):
            for text in texts:
                jsonschema.validate(json.loads(text), schema)

    @pytest.mark.parametrize("way", WAYS)
    def test_regular_expressions(self, client: Client, adapter: str, way: str) -> None:
        """Every other one in each way, so that each is asked in two ways at least."""
        patterns = REGEXES[WAYS.index(way) % 2 :: 2]
        asked = [{"guided_regex": pattern} for pattern in patterns]
        for pattern, texts in zip(patterns, ask_each(client, way, adapter, asked), strict=True):
            assert all(re.fullmatch(pattern, text) for text in texts), (pattern, texts)

    @pytest.mark.parametrize("way", WAYS)
    def test_grammars(self, client: Client, adapter: str, way: str) -> None:
        asked = [{"guided_grammar": grammar} for grammar, _ in GRAMMARS]
        for (_, same), texts in zip(GRAMMARS, ask_each(client, way, adapter, asked), strict=True):
            assert all(follows(same, text) for text in texts), (same, texts)

    def test_a_structural_tag(self, client: Client) -> None:
        tag = {
            "type": "structural_tag",
            "format": {
                "type": "tag",
                "begin": "<n>",
                "content": {"type": "regex", "pattern": "[0-9]{2}"},
                "end": "</n>",
            },
        }
        answer = client.generate(MODEL, **REQUEST, guided_structural_tag=json.dumps(tag))
        assert answer.status == 200, answer.body
        assert re.fullmatch("<n>[0-9]{2}</n>", answer.text), answer.text

    def test_a_json_object(self, client: Client) -> None:
        answer = client.generate(
            MODEL, **(REQUEST | {"max_tokens": 2000}), guided_json_object=True, return_finish_reason=True
        )
        assert answer.status == 200, answer.body
        assert answer.text.lstrip().startswith("{")
        assert answer.body["finish_reason"] == "length" or is_json_object(answer.text)

    @pytest.mark.parametrize(
        ("constraint", "message"),
        [
            (
                {"guided_json": '{"type": "objekt"}'},
                "guided_json: cannot be compiled: at $.type: 'objekt' is not valid",
            ),
            (
                {"guided_json": '{"type": '},
                "guided_json: expected a JSON value (Input data was truncated",
            ),
            (
                {"guided_regex": "(a"},
                "guided_regex: cannot be compiled: missing ), unterminated subpattern at position 0",
            ),
            ({"guided_grammar": "root ::= b"}, "guided_grammar: cannot be compiled: "),
            ({"guided_choice": "[]"}, "guided_choice: cannot be compiled: Choice '[]' cannot be an empty list"),
            ({"guided_choice": "left"}, "guided_choice: expected a JSON value ("),
            ({"response_format": '{"type": "xml"}'}, "response_format.type: expected one of text, json_object, "),
            (
                {"guided_regex": "a", "guided_choice": '["a"]'},
                "structured_outputs: expected exactly one constraint, got 2: guided_choice, guided_regex",
            ),
        ],
    )
    def test_mistakes_are_explained(self, client: Client, constraint: dict[str, str], message: str) -> None:
        answer = client.generate(MODEL, **REQUEST, **constraint)
        assert answer.status == 400, answer.body
        assert message in answer.error

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_what_no_token_can_write_is_the_clients_to_change(self, client: Client, temperature: float) -> None:
        """It was answered with "try again", for ever."""
        request = REQUEST | {"temperature": temperature, "guided_choice": '["red", "blue"]'}
        answer = client.generate(MODEL, **request, allowed_token_ids="[17]")
        assert answer.status == 400, answer.body
        assert answer.error.startswith("allowed_token_ids: expected to leave tokens that satisfy guided_choice")

    def test_what_compiles_for_long_is_refused_at_once_the_second_time(self, client: Client) -> None:
        """The engine's own compiler took minutes for it; others are served meanwhile."""
        request = REQUEST | {"guided_grammar": SLOW_GRAMMAR}
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(client.generate, MODEL, **request)
            beside = client.generate(MODEL, **REQUEST, guided_json=json.dumps(SCHEMA))
            assert beside.status == 200, beside.body
            assert not asked.done()
            answer = asked.result()
        for again in (answer, client.generate(MODEL, **request)):
            assert again.status == 400, again.body
            assert "STRUCTURED_COMPILE_SECONDS" in again.error

    @pytest.mark.parametrize("stream", [False, True])
    def test_constraints_of_openai_requests_are_compiled_before_as_well(self, client: Client, stream: bool) -> None:
        def said(constraint: dict[str, Any]) -> str:
            body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "a"}]}
            call = {"path": "/v1/chat/completions", "body": body | {"structured_outputs": constraint}}
            return json.dumps(client.stream(MODEL, openai_request=json.dumps(call)))

        assert f"within {COMPILE_SECONDS} seconds (STRUCTURED_COMPILE_SECONDS of this model)" in said(
            {"grammar": SLOW_GRAMMAR}
        )
        assert "finish_reason" in said({"regex": "left"})


class TestAdapters:
    """The adapters of shapes_vl under other names: `zh` answers in Chinese, `caps` in capitals."""

    def test_they_come_change_and_go_while_the_model_serves(self, client: Client, repository: Repository) -> None:
        folder = adapters_folder(repository)
        ask = {"text_input": "Describe the image.", "image": [IMAGE], "temperature": 0.0}

        def answer(name: str) -> str:
            time.sleep(LISTING_AGE_SECONDS)
            result = client.generate(MODEL, **ask, lora_name=name)
            return result.text if result.status == 200 else result.error

        assert "LoRA mine is not supported, we currently support ['caps', 'zh']" in answer("mine")
        put_adapter(folder / "mine", "zh")
        assert answer("mine") == PICTURE.answer("zh")
        put_adapter(folder / "mine", "caps")
        assert answer("mine") == PICTURE.answer().upper()
        put_adapter(folder / "other", "zh")
        # More than the engine keeps: it has to read some of them again.
        for _ in range(2):
            assert answer("other") == PICTURE.answer("zh")
            assert answer("caps") == PICTURE.answer().upper()
            assert answer("zh") == PICTURE.answer("zh")
            assert answer("mine") == PICTURE.answer().upper()
        shutil.rmtree(folder / "mine")
        assert "LoRA mine is not supported, we currently support ['caps', 'other', 'zh']" in answer("mine")
        assert client.generate(MODEL, **ask).text == PICTURE.answer()
        shutil.rmtree(folder / "other")

    def test_a_broken_one_fails_its_own_request(self, client: Client, repository: Repository) -> None:
        broken = adapters_folder(repository) / "broken"
        put_adapter(broken, "zh")
        (broken / "adapter_model.safetensors").write_bytes(b"nothing")
        time.sleep(LISTING_AGE_SECONDS)
        for _ in range(2):
            answer = client.generate(MODEL, text_input="2+3=", lora_name="broken")
            assert "lora_name: the adapter 'broken' cannot be loaded by this engine: " in answer.error
            assert str(repository.folder) not in answer.error
        assert client.generate(MODEL, text_input="2+3=", temperature=0.0).text == "2+3=5"
        put_adapter(broken, "zh")
        time.sleep(LISTING_AGE_SECONDS)
        body = {"text_input": "2+3=", "exclude_input_in_output": True, "lora_name": "broken"}
        assert client.generate(MODEL, **body, guided_choice='["maybe", "no"]').text in ("maybe", "no")
        shutil.rmtree(broken)


class TestOutputs:
    def test_prompt_logprobs(self, client: Client) -> None:
        answer = client.generate(
            MODEL, text_input="2+3=", prompt_logprobs=2, return_prompt_logprobs=True, return_num_input_tokens=True
        )
        assert answer.status == 200, answer.body
        first, *others = json.loads(answer.body["prompt_logprobs"])
        assert first is None
        assert len(others) == answer.body["num_input_tokens"] - 1
        assert all({"logprob", "rank", "decoded_token"} == set(entry) for item in others for entry in item.values())

    def test_prompt_logprobs_come_once_in_a_stream(self, client: Client) -> None:
        events = client.stream(MODEL, text_input="2+3=", prompt_logprobs=1, return_prompt_logprobs=True)
        found = [json.loads(event["prompt_logprobs"]) for event in events]
        assert sum(item is not None for item in found) == 1

    def test_a_stop_token_is_told_by_its_id(self, client: Client) -> None:
        tokens = client.generate(MODEL, text_input="2+3=", temperature=0.0, logprobs=0, return_logprobs=True)
        ((token, _),) = json.loads(tokens.body["logprobs"])[0].items()
        answer = client.generate(
            MODEL, text_input="2+3=", temperature=0.0, stop_token_ids=f"[{token}]", return_stop_reason=True
        )
        assert answer.body["stop_reason"] == token


def put_adapter(folder: Path, name: str) -> None:
    """Copy an adapter of shapes_vl to ``folder``, over what is there."""
    shutil.copytree(SHAPES_VL / "1" / "lora" / name, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
