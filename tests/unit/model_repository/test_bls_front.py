"""What the example in front of a vLLM model asks of Triton, on small stand-ins for the binding."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import fakes
from tests.support.fakes import InferenceResponse, ResponseSender, Tensor, TritonError
from tools.installer.paths import DEFAULT_REPOSITORY

BINDING = "triton_python_backend_utils"
CONFIG = {
    "name": "mine",
    "parameters": {"MODEL": {"string_value": "theirs"}, "CONCURRENCY": {"string_value": "2"}},
}


class Request:
    """``InferenceRequest`` as a model gets it."""

    def __init__(self, sender: ResponseSender, **tensors: Any) -> None:
        self.sender = sender
        self.tensors = {name: Tensor(name, np.array([value])) for name, value in tensors.items()}

    def get_response_sender(self) -> ResponseSender:
        return self.sender

    def request_id(self) -> str:
        return "id-7"

    def timeout(self) -> int:
        return 9_000_000


class Responses:
    """What BLS answers: an iterator, which can be cancelled with Triton since 2025."""

    def __init__(self, responses: list[InferenceResponse], *, cancellable: bool) -> None:
        self._left = iter(responses)
        self.taken = 0
        self.cancelled = False
        if cancellable:
            self.cancel = self._cancel

    def __iter__(self) -> Iterator[InferenceResponse]:
        return self

    def __next__(self) -> InferenceResponse:
        response = next(self._left)
        self.taken += 1
        return response

    def _cancel(self) -> None:
        self.cancelled = True


class Front:
    """The example, and the vLLM model that it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.responses = Responses([], cancellable=True)
        self.log = fakes.Log()
        binding: Any = types.ModuleType(BINDING)
        vars(binding).update(vars(fakes.pb_utils))
        binding.InferenceRequest = self._request
        binding.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
        binding.get_output_tensor_by_name = lambda response, name: next(
            tensor for tensor in response.output_tensors() if tensor.name() == name
        )
        binding.Logger = self.log
        monkeypatch.setitem(sys.modules, BINDING, binding)
        spec = importlib.util.spec_from_file_location("bls_front", DEFAULT_REPOSITORY / "bls_front/1/model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.TritonPythonModel()
        self.model.initialize({"model_config": json.dumps(CONFIG)})

    def ask(self, sender: ResponseSender, **tensors: Any) -> None:
        """Returns when the request has ended."""
        self.model.execute([Request(sender, **tensors)])
        self.model.finalize()

    def _request(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return types.SimpleNamespace(exec=lambda *, decoupled: self.responses)


class Sender(ResponseSender):
    """With the form of ``send`` in which the final response is nothing but a flag."""

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        super().send(response or InferenceResponse(), flags)


class Leaver(Sender):
    """Of a client that goes after its first response."""

    def is_cancelled(self) -> bool:
        return bool(self.sent)


class LaterLeaver(Sender):
    """Of a client that goes while the vLLM model works."""

    asked = 0

    def is_cancelled(self) -> bool:
        self.asked += 1
        return self.asked > 1


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Front:
    return Front(monkeypatch)


@pytest.fixture
def sender() -> Sender:
    return Sender()


def piece(text: str, reason: str = "None") -> InferenceResponse:
    values = {"text_output": text, "finish_reason": reason}
    return InferenceResponse([Tensor(name, np.array([value.encode()], object)) for name, value in values.items()])


PIECES = [piece("a"), piece(" red"), piece(" circle", "stop"), InferenceResponse()]


def answers(sender: ResponseSender) -> list[Any]:
    return [json.loads(response.output_tensors()[0].as_numpy()[0]) for response, flags in sender.sent if not flags]


def body(**more: Any) -> bytes:
    return json.dumps({"prompt": "What?", **more}).encode()


def test_one_answer(front: Front, sender: Sender) -> None:
    front.responses = Responses(PIECES, cancellable=True)
    front.ask(sender, request=body())
    assert answers(sender) == [{"text": "a red circle", "finish_reason": "stop"}]
    assert sender.flags == [0, 1]


def test_an_answer_for_each_piece(front: Front, sender: Sender) -> None:
    front.responses = Responses(PIECES, cancellable=True)
    front.ask(sender, request=body(), stream=True)
    assert [(one["text"], one["finish_reason"]) for one in answers(sender)] == [
        ("a", None),
        (" red", None),
        (" circle", "stop"),
    ]


def test_what_the_vllm_model_is_asked(front: Front, sender: Sender) -> None:
    front.ask(sender, request=body(images=["http://host/a.png"], parameters={"temperature": 0}))
    asked = front.asked[0]
    inputs = {tensor.name(): tensor.as_numpy()[0] for tensor in asked["inputs"]}
    assert (asked["model_name"], asked["request_id"], asked["timeout"]) == ("theirs", "id-7", 9_000_000)
    assert inputs == {
        "text_input": b"What?",
        "sampling_parameters": b'{"temperature": 0}',
        "return_finish_reason": True,
        "image": b"http://host/a.png",
        "stream": True,
    }


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_has_gone_cancels_the_vllm_models_work(front: Front, streamed: bool) -> None:
    sender = Leaver() if streamed else LaterLeaver()
    front.responses = Responses(PIECES, cancellable=True)
    front.ask(sender, request=body(), stream=streamed)
    assert front.responses.cancelled
    assert front.responses.taken == len(PIECES)
    assert sender.flags[-1] == 1


def test_a_triton_without_cancellation_of_bls_is_read_to_the_end(front: Front) -> None:
    sender = Leaver()
    front.responses = Responses(PIECES, cancellable=False)
    front.ask(sender, request=body(), stream=True)
    assert [one["text"] for one in answers(sender)] == ["a"]
    assert front.responses.taken == len(PIECES)


def test_the_vllm_models_error_is_passed_on_with_its_code(front: Front, sender: Sender) -> None:
    error = TritonError("temperature: expected 0 or more", TritonError.INVALID_ARG)
    front.responses = Responses([InferenceResponse(error=error)], cancellable=True)
    front.ask(sender, request=body())
    assert sender.sent[0][0].error() is error
    assert sender.flags == [0, 1]


def test_an_openai_request_that_is_none_is_refused(front: Front, sender: Sender) -> None:
    front.ask(sender, openai_request=b"[]")
    error = sender.sent[0][0].error()
    assert error is not None
    assert error.message() == "openai_request: expected a JSON object"


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        (b"{", 'expected JSON with "prompt"'),
        (b"[]", 'expected JSON with "prompt"'),
        (b'{"prompt": 1}', "prompt: expected a string"),
        (b'{"prompt": "a", "images": "b"}', "images: expected a list"),
        (b'{"prompt": "a", "parameters": {"n": 2}}', "n: expected 1"),
        (b'{"prompt": "a", "parameters": ' + b"[" * 200_000, 'expected JSON with "prompt"'),
    ],
)
def test_what_is_refused(front: Front, sender: Sender, request_text: bytes, message: str) -> None:
    front.ask(sender, request=request_text)
    error = sender.sent[0][0].error()
    assert error is not None
    assert error.code() == TritonError.INVALID_ARG
    assert message in error.message()
    assert front.asked == []


def test_an_openai_request_of_many_levels_is_refused(front: Front, sender: Sender) -> None:
    front.ask(sender, openai_request=b"[" * 200_000)
    error = sender.sent[0][0].error()
    assert error is not None
    assert error.message() == "openai_request: too many levels"


def test_what_its_client_has_left_before_it_began_is_not_asked(front: Front) -> None:
    sender = Sender()
    sender.cancelled = True
    front.ask(sender, request=body())
    assert front.asked == []
    assert sender.flags[-1] == 1


def test_more_than_may_wait_are_refused(front: Front) -> None:
    gate = threading.Event()

    class Held(Responses):
        def __next__(self) -> InferenceResponse:
            assert gate.wait(60)
            return super().__next__()

    front.responses = Held([], cancellable=True)
    senders = [Sender() for _ in range(5)]
    front.model.execute([Request(sender, request=body()) for sender in senders])
    error = senders[-1].sent[0][0].error()
    assert error is not None
    assert error.code() == TritonError.UNAVAILABLE
    assert senders[-1].flags == [1]
    gate.set()
    front.model.finalize()
    assert [sender.flags[-1] for sender in senders] == [1] * 5


def test_a_defect_is_logged_and_not_shown(front: Front, sender: Sender) -> None:
    front.responses = Responses([InferenceResponse([Tensor("text_output", np.array([1]))])], cancellable=True)
    front.ask(sender, request=body())
    error = sender.sent[0][0].error()
    assert error is not None
    assert error.message() == "internal error; the server's log has the details"
    assert len(front.log.errors) == 1


def test_a_call_of_the_openai_api_has_the_vllm_models_name_behind_and_our_own_in_front(
    front: Front, sender: Sender
) -> None:
    answer = b'{"id":"x","model":"theirs","text":"\\"model\\":\\"theirs\\""}'
    tensors = [Tensor("openai_response", np.array([answer], object)), Tensor("openai_status", np.array([200]))]
    front.responses = Responses([InferenceResponse(tensors)], cancellable=True)
    front.ask(sender, openai_request=b'{"path": "/v1/chat/completions", "body": {"model": "mine"}}')
    passed_on = json.loads(front.asked[0]["inputs"][0].as_numpy()[0])
    assert passed_on["body"]["model"] == "theirs"
    outputs = {tensor.name(): tensor.as_numpy()[0] for tensor in sender.sent[0][0].output_tensors()}
    assert outputs["openai_status"] == 200
    assert json.loads(outputs["openai_response"]) == {"id": "x", "model": "mine", "text": '"model":"theirs"'}


def test_an_adapter_keeps_its_name(front: Front, sender: Sender) -> None:
    front.ask(sender, openai_request=b'{"path": "/v1/chat/completions", "body": {"model": "zh"}}')
    assert json.loads(front.asked[0]["inputs"][0].as_numpy()[0])["body"]["model"] == "zh"
