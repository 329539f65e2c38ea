"""What people send to the native inputs beyond text and images: token ids, tools, reasoning, and odd forms."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.support.bodies import b64, data_uri, text_part, user
from tests.support.client import Answer, Client
from tests.support.openai_cases import ANSWER, CHAT, MODEL, OTHER_TOOL, REASONING, RESPONSES, THOUGHT, TOOL
from tests.support.servers import SHAPES_VL
from tests.support.shapes import clip, encode, picture
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("superset")

GREEDY = {"temperature": 0}
PICTURE = picture(20_001, (224, 224), count=2)
SUM = [{"role": "user", "content": "2+3="}]
NAMED = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHAPES_VL / "1/weights")


def openai(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.generate(MODEL, openai_request=json.dumps({"path": path, "body": {"model": MODEL, **body}}))
    found: dict[str, Any] = json.loads(answer.body["openai_response"])
    return found


class TestTokens:
    def test_token_ids_in_and_out(self, client: Client, tokenizer: Any) -> None:
        ids = tokenizer.encode("2+3=", add_special_tokens=False)
        answer = client.generate(MODEL, input_ids=ids, return_output_ids=True, return_num_input_tokens=True, **GREEDY)
        assert answer.status == 200, answer.body
        assert (answer.text, answer.body["num_input_tokens"]) == ("5", len(ids))
        assert tokenizer.decode(answer.body["output_ids"], skip_special_tokens=True) == "5"

    def test_the_ids_of_a_stream_follow_each_other(self, client: Client, tokenizer: Any) -> None:
        body = {"text_input": "Describe the image.", "image": [b64(PICTURE.encoded())], **GREEDY}
        whole = client.generate(MODEL, return_output_ids=True, **body).body["output_ids"]
        events = client.stream(MODEL, return_output_ids=True, **body)
        assert [token for event in events for token in _listed(event.get("output_ids", []))] == whole
        assert tokenizer.decode(whole, skip_special_tokens=True) == PICTURE.answer()

    def test_ids_over_grpc(self, triton: TritonServer, tokenizer: Any) -> None:
        ids = np.array(tokenizer.encode("2+3=", add_special_tokens=False), np.int32)
        results = list(_grpc(triton, {"input_ids": ids, "return_output_ids": np.array([True])}, temperature=0.0, n=1))
        (made,) = [result.as_numpy("output_ids") for result in results if result.as_numpy("output_ids") is not None]
        assert (made.dtype, made.shape[0]) == (np.int32, 1)
        assert tokenizer.decode(made[0], skip_special_tokens=True) == "5"

    def test_ids_that_the_model_does_not_have(self, client: Client) -> None:
        for wrong in (10**6, -1):
            answer = client.generate(MODEL, input_ids=[1, wrong])
            assert answer.status == 400, answer.body
            assert "vocab" in answer.error
        assert client.generate(MODEL, text_input="2+3=", exclude_input_in_output=True, **GREEDY).text == "5"

    def test_what_goes_with_a_request(self, client: Client) -> None:
        given = {"cache_salt": "tenant-1", "session_id": "chat-7", "data_parallel_rank": 0}
        answer = client.generate(MODEL, messages=json.dumps(SUM), **given, **GREEDY)
        assert (answer.status, answer.text) == (200, "5")
        refused = client.generate(MODEL, text_input="2+3=", data_parallel_rank=1)
        assert refused.status == 400
        assert "data_parallel_rank: expected a number from 0 to 0" in refused.error

    def test_documents_for_the_template(self, client: Client) -> None:
        parameters = json.dumps({"documents": [{"title": "a", "text": "b"}], **GREEDY})
        answer = client.generate(MODEL, messages=json.dumps(SUM), sampling_parameters=parameters)
        assert (answer.status, answer.text) == (200, "5")


class TestTools:
    # The model has not learnt to call tools: a constraint puts the words in its mouth, and the parser has to see them.
    ARGUMENTS: ClassVar[dict[str, Any]] = {"colour": "red", "number": 7}
    SAID = "<tool_call>\n" + json.dumps({"name": "paint", "arguments": ARGUMENTS}) + "\n</tool_call>"

    def asked(self, choice: Any) -> dict[str, Any]:
        said = {"structured_outputs": {"choice": [self.SAID]}} if choice == "auto" else {}
        return {"tools": [TOOL, OTHER_TOOL], "tool_choice": choice, "max_tokens": 200, **said, **GREEDY}

    @pytest.mark.parametrize("choice", ["auto", NAMED, "required", "none"], ids=["auto", "named", "required", "none"])
    def test_answers_are_those_of_vllms_own_server(self, client: Client, choice: Any) -> None:
        served = openai(client, CHAT, {"messages": SUM, **self.asked(choice)})["choices"][0]
        answer = _asking(client, self.asked(choice))
        assert answer.status == 200, answer.body
        calls = json.loads(answer.body["tool_calls"])
        expected = [call["function"] for call in served["message"].get("tool_calls") or ()]
        assert [call["function"] for call in calls] == expected
        assert answer.text == (served["message"]["content"] or "")
        assert answer.body["finish_reason"] == served["finish_reason"]
        if choice == "auto":
            assert [(call["name"], json.loads(call["arguments"])) for call in expected] == [("paint", self.ARGUMENTS)]
            assert answer.body["finish_reason"] == "tool_calls"

    @pytest.mark.parametrize("choice", ["auto", NAMED, "required"], ids=["auto", "named", "required"])
    def test_streams_are_those_of_vllms_own_server(self, client: Client, choice: Any) -> None:
        asked = self.asked(choice)
        events = client.stream(MODEL, messages=json.dumps(SUM), sampling_parameters=json.dumps(asked))
        deltas = _served_deltas(client, {"messages": SUM, **asked})
        ours = _added_up([delta for event in events for delta in json.loads(event["tool_calls"])])
        assert ours == _added_up([call for delta in deltas for call in delta.get("tool_calls") or ()])
        assert "".join(event["text_output"] for event in events) == _content(deltas)


class TestReasoning:
    REGEX = re.escape(THOUGHT).replace("\\ ", " ")

    def test_reasoning_is_an_output_of_its_own(self, client: Client) -> None:
        answer = client.generate(
            MODEL, messages=json.dumps(SUM), guided_regex=self.REGEX, return_reasoning=True, **GREEDY
        )
        assert answer.status == 200, answer.body
        assert (answer.body["reasoning"], answer.text) == (REASONING, ANSWER)

    def test_nobody_asks_and_it_stays_in_the_text(self, client: Client) -> None:
        answer = client.generate(MODEL, messages=json.dumps(SUM), guided_regex=self.REGEX, **GREEDY)
        assert answer.text == THOUGHT
        assert "reasoning" not in answer.body

    def test_streamed(self, client: Client) -> None:
        events = client.stream(
            MODEL, messages=json.dumps(SUM), guided_regex=self.REGEX, return_reasoning=True, **GREEDY
        )
        deltas = _served_deltas(client, {"messages": SUM, "structured_outputs": {"regex": self.REGEX}, **GREEDY})
        reasoning = "".join(delta.get("reasoning") or "" for delta in deltas)
        assert reasoning
        assert "".join(event["reasoning"] for event in events) == reasoning
        assert "".join(event["text_output"] for event in events) == _content(deltas)


class TestForms:
    def test_what_litellms_provider_triton_sends(self, client: Client) -> None:
        parameters = {"max_tokens": 4, "temperature": 0, "bad_words": [""], "stop_words": [""]}
        answer = client.generate(MODEL, text_input="2+3=", parameters=parameters, stream=False)
        assert (answer.status, answer.body.get("text_output")) == (200, "2+3=5")

    def test_lists_of_words_hold(self, client: Client) -> None:
        body = {"text_input": "Describe the image.", "image": [b64(PICTURE.encoded())], **GREEDY}
        first = PICTURE.answer().split()[1]
        answer = client.generate(MODEL, stop_words=["", first], **body)
        assert answer.text == PICTURE.answer().split(first)[0]
        assert "5" not in client.generate(MODEL, messages=json.dumps(SUM), bad_words=["5"], **GREEDY).text

    def test_guided_decoding_of_the_official_backend_of_2025(self, client: Client) -> None:
        choices = ["green star", "red circle"]
        parameters = json.dumps({"guided_decoding": json.dumps({"choice": choices}), **GREEDY})
        answer = client.generate(MODEL, text_input="2+3=", exclude_input_in_output=True, sampling_parameters=parameters)
        assert answer.text in choices

    def test_headers_that_triton_forwards(self, client: Client) -> None:
        parameters = {"X-Request-Id": "abc-1", "Host": "x", "User-Agent": "curl", **GREEDY}
        answer = client.generate(MODEL, text_input="2+3=", parameters=parameters)
        assert (answer.status, answer.body.get("text_output")) == (200, "2+3=5")

    def test_parts_of_other_apis(self, client: Client) -> None:
        history = [
            {"role": "user", "content": "4+4="},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "four twice"}, text_part("8")]},
            *SUM,
        ]
        assert client.generate(MODEL, messages=json.dumps(history), **GREEDY).status == 200
        uri = data_uri(PICTURE.encoded())
        for part in ({"type": "input_image", "image_url": uri}, {"image_url": {"url": uri}}):
            messages = user(part, text_part("Describe the image."))
            assert client.generate(MODEL, messages=messages, **GREEDY).text == PICTURE.answer()

    def test_frames_in_hand(self, client: Client) -> None:
        frames = [encode(frame, "JPEG", quality=92) for frame in clip(20_400, "left")]
        uri = "data:video/jpeg;base64," + ",".join(map(b64, frames))
        answer = client.generate(MODEL, text_input="Which way does it move?", video=[uri], **GREEDY)
        assert (answer.status, answer.body.get("text_output")) == (200, "left")
        parts = [{"type": "video_url", "video_url": {"url": uri}}, text_part("Which way does it move?")]
        served = openai(client, CHAT, {"messages": [{"role": "user", "content": parts}], **GREEDY})
        assert served["choices"][0]["message"]["content"] == "left"

    def test_an_image_that_a_tool_gave(self, client: Client) -> None:
        seen = {"type": "input_image", "image_url": data_uri(PICTURE.encoded()), "detail": "auto"}
        items = [
            {"role": "user", "content": "Take a picture."},
            {"type": "function_call", "call_id": "call_1", "name": "take_picture", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": [seen]},
            {"role": "user", "content": "Describe the image."},
        ]
        answer = openai(client, RESPONSES, {"input": items, "max_output_tokens": 60, "store": False, **GREEDY})
        assert answer["output"][0]["content"][0]["text"] == PICTURE.answer()

    def test_an_option_that_the_engine_alone_decides(self, client: Client) -> None:
        for name, status in (("disable_any_whitespace", 200), ("disable_additional_properties", 400)):
            wanted = {"json": {"type": "object"}, name: True}
            answer = client.generate(MODEL, text_input="2+3=", max_tokens=4, structured_outputs=json.dumps(wanted))
            assert answer.status == status, answer.body
            body = {"messages": SUM, "structured_outputs": wanted, "max_tokens": 4}
            assert ("error" in openai(client, CHAT, body)) is (status == 400)


def _asking(client: Client, parameters: dict[str, Any]) -> Answer:
    given = json.dumps(parameters)
    return client.generate(MODEL, messages=json.dumps(SUM), sampling_parameters=given, return_finish_reason=True)


def _served_deltas(client: Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the stream of vLLM's own application."""
    call = {"path": CHAT, "body": {"model": MODEL, "stream": True, **body}}
    text = "".join(event["openai_response"] for event in client.stream(MODEL, openai_request=json.dumps(call)))
    return [json.loads(line[6:])["choices"][0]["delta"] for line in text.split("\n") if line.startswith("data: {")]


def _content(deltas: list[dict[str, Any]]) -> str:
    return "".join(delta.get("content") or "" for delta in deltas)


def _added_up(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and arguments of each call, of which the pieces came one by one."""
    made: dict[int, tuple[str, str]] = {}
    for call in calls:
        name, arguments = made.get(call["index"], ("", ""))
        function = call.get("function") or {}
        made[call["index"]] = (name + (function.get("name") or ""), arguments + (function.get("arguments") or ""))
    return [made[index] for index in sorted(made)]


def _listed(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]


def _grpc(triton: TritonServer, arrays: dict[str, np.ndarray], **parameters: Any) -> Iterator[Any]:
    """The results of one request over a stream."""
    kinds = {np.dtype(np.int32): "INT32", np.dtype(bool): "BOOL"}
    inputs = []
    for name, values in arrays.items():
        inputs.append(grpcclient.InferInput(name, values.shape, kinds[values.dtype]))
        inputs[-1].set_data_from_numpy(values)
    arrived: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        connection.start_stream(lambda result, error: arrived.put((result, error)))
        connection.async_stream_infer(MODEL, inputs, parameters=parameters, enable_empty_final_response=True)
        while True:
            result, error = arrived.get(timeout=60)
            assert error is None, error
            yield result
            if result.get_response().parameters["triton_final_response"].bool_param:
                return
