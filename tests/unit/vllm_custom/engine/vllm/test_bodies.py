"""Bodies of the OpenAI application are read beside the event loop, and refused for the first thing that is wrong.

200 kB of wrong items for /v1/responses held the event loop for 37 s; 9,000 right ones did for 2 s.
"""

import asyncio
import json
import threading
from typing import Any

import pytest

from vllm_custom.engine.vllm.bodies import read_bodies_in_threads
from vllm_custom.errors import RefusedInVllmError
from vllm_custom.openai.asgi import call_application

pytestmark = pytest.mark.usefixtures("vllm")

LOOP = threading.main_thread()


class Sink:
    def __init__(self) -> None:
        self.status, self.text = 0, b""

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status

    def body(self, chunk: bytes, *, more: bool) -> None:
        self.text += chunk

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def items(number: int, **part: Any) -> list[Any]:
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", **part}]}] * number


def post(
    body: Any, content_type: str = "application/json", path: str = "/responses", model: type | None = None
) -> Sink:
    """The answer of an application with vLLM's own model of a request."""
    from fastapi import Body, FastAPI
    from pydantic import model_validator
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    class Request(model or ResponsesRequest):  # type: ignore[misc]
        @model_validator(mode="before")
        @classmethod
        def note_thread(cls, data: Any) -> Any:
            readers.append(threading.current_thread())
            return data

    readers: list[threading.Thread] = []
    application = FastAPI()

    @application.post("/responses")
    async def responses(request: Request) -> dict[str, Any]:
        return {"items": len(request.input), "on_loop": LOOP in readers}

    @application.post("/raw")
    async def raw(request: dict[str, Any] = Body()) -> int:  # noqa: B008 - FastAPI's way
        return len(request)

    served = read_bodies_in_threads(application, {"/responses"})
    sink = Sink()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asyncio.run(call_application(served, "POST", path, {"content-type": content_type}, data, sink))
    return sink


@pytest.mark.parametrize(
    "body",
    [
        {"input": items(400)},
        {"input": "hi", "tools": [None] * 5000},
        {"input": "hi", "metadata": dict.fromkeys(map(str, range(5000)), 1)},
        {"input": items(2)},
        {},
    ],
)
def test_a_body_is_refused_for_the_first_thing_that_is_wrong(body: dict[str, Any]) -> None:
    answer = post(body)
    assert answer.status == 422
    assert 1 <= len(answer.document["detail"]) < 300


@pytest.mark.parametrize("filler", [0, 9000])
def test_what_vllms_own_checks_stumble_over_is_the_clients_fault(filler: int) -> None:
    """A KeyError was 500, after a few of which a frontend takes the server for broken."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tool_choice = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "a" * filler}], "tools": [{}], "tool_choice": tool_choice}
    with pytest.raises(RefusedInVllmError, match="the body is malformed: KeyError: function"):
        post(body, model=ChatCompletionRequest)


def test_long_bodies_are_read_beside_the_event_loop_and_short_ones_on_it() -> None:
    assert post({"input": items(400, text="a")}).document == {"items": 400, "on_loop": False}
    assert post({"input": items(2, text="a")}).document == {"items": 2, "on_loop": True}


@pytest.mark.parametrize("body", [b"[" * 9000, b"{" + b" " * 9000, b"[" + b"1," * 9000 + b"1]", b" " * 9000 + b"null"])
def test_what_is_no_json_object_is_refused_by_the_application(body: bytes) -> None:
    assert post(body).status in (400, 422)


def test_a_body_of_another_type_is_no_json() -> None:
    assert post({"input": items(400, text="a")}, "text/plain").status == 422


def test_routes_that_are_not_named_get_their_whole_body() -> None:
    assert post({str(number): number for number in range(2000)}, path="/raw").document == 2000
