"""A format of one's own in front of a vLLM model, by BLS: streamed and not, with cancellation passed on.

To be copied. What to change for another format is in `to_inputs` and `to_answer`; how requests run is below them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

OPENAI_OUTPUTS = ["openai_response", "openai_status", "openai_headers"]


def to_inputs(text: bytes) -> list[Any]:
    """The vLLM model's inputs for a request in this model's format.

    Raises:
        ValueError: the request is not in this format. The message goes to the client.
    """
    try:
        request = json.loads(text)
        prompt, images, parameters = request["prompt"], request.get("images", []), request.get("parameters", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError('request: expected JSON with "prompt", and perhaps "images" and "parameters"') from error
    if not isinstance(prompt, str):
        raise ValueError("request: prompt: expected a string")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("request: images: expected a list of URLs, data: URIs and base64")
    if isinstance(parameters, dict) and parameters.get("n", 1) != 1:
        raise ValueError("request: parameters: n: expected 1, as an answer has one text")
    inputs = [
        strings("text_input", [prompt]),
        strings("sampling_parameters", [json.dumps(parameters)]),
        flag("return_finish_reason"),
    ]
    return [*inputs, strings("image", images)] if images else inputs


def to_answer(text: str, finish_reason: str | None) -> list[Any]:
    """This model's outputs for a piece of text, or for the whole of it."""
    return [strings("answer", [json.dumps({"text": text, "finish_reason": finish_reason}, ensure_ascii=False)])]


class AnsweredError(Exception):
    """The vLLM model's answer is this error of Triton's."""


class TritonPythonModel:
    """What Triton's stub instantiates."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read this model's parameters."""
        config = json.loads(args["model_config"])
        self._name = config["name"]
        self._model = config["parameters"]["MODEL"]["string_value"]
        threads = int(config["parameters"]["CONCURRENCY"]["string_value"])
        self._threads = ThreadPoolExecutor(threads)
        # As many may wait as run. What comes then is told so, instead of waiting for long.
        self._places = threading.Semaphore(2 * threads)

    def execute(self, requests: list[Any]) -> None:
        """Return at once, so that further requests come in; each is served by a thread of its own."""
        for request in requests:
            sender = request.get_response_sender()
            if self._places.acquire(blocking=False):
                self._threads.submit(self._serve, request, sender)
            else:
                full = pb_utils.TritonError("too many requests; try again later", pb_utils.TritonError.UNAVAILABLE)
                sender.send(pb_utils.InferenceResponse(error=full), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Triton calls this when the requests under way have ended."""
        self._threads.shutdown()

    def _serve(self, request: Any, sender: Any) -> None:
        """Exactly one final response, whatever happens: a request without one never ends."""
        error = None
        try:
            of_openai = pb_utils.get_input_tensor_by_name(request, "openai_request") is not None
            for outputs in self._openai(request, sender) if of_openai else self._own(request, sender):
                sender.send(pb_utils.InferenceResponse(outputs))
        except AnsweredError as answered:
            (error,) = answered.args
        except ValueError as refused:
            error = pb_utils.TritonError(str(refused), pb_utils.TritonError.INVALID_ARG)
        except Exception as defect:
            pb_utils.Logger.log_error(f"{self._name}: {defect!r}")
            error = pb_utils.TritonError("internal error; the server's log has the details")
        if error is not None:
            sender.send(pb_utils.InferenceResponse(error=error))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self._places.release()

    def _own(self, request: Any, sender: Any) -> Iterator[list[Any]]:
        """Answers in this model's format: for each piece of text, or one."""
        given, streamed = (pb_utils.get_input_tensor_by_name(request, name) for name in ("request", "stream"))
        if given is None:
            raise ValueError("request: required")
        in_pieces = streamed is not None and bool(streamed.as_numpy()[0])
        # Streamed from the vLLM model in any case: between pieces we see whether the client has gone.
        inputs = [*to_inputs(given.as_numpy()[0]), flag("stream")]
        text, reason = "", None
        for response in self._ask(inputs, ["text_output", "finish_reason"], request, sender):
            piece, said = text_of(response, "text_output"), text_of(response, "finish_reason")
            reason = None if said == "None" else said
            text += piece
            if in_pieces:
                yield to_answer(piece, reason)
        if not in_pieces:
            yield to_answer(text, reason)

    def _openai(self, request: Any, sender: Any) -> Iterator[list[Any]]:
        """A call of the OpenAI API, passed on under the vLLM model's name. Here it could be changed or refused."""
        try:
            call = json.loads(pb_utils.get_input_tensor_by_name(request, "openai_request").as_numpy()[0])
        except RecursionError as error:
            raise ValueError("openai_request: too many levels") from error
        if not isinstance(call, dict):
            raise ValueError("openai_request: expected a JSON object")
        # Adapters keep their names.
        if isinstance(call.get("body"), dict) and call["body"].get("model") == self._name:
            call["body"]["model"] = self._model
        inputs = [strings("openai_request", [json.dumps(call)])]
        for response in self._ask(inputs, OPENAI_OUTPUTS, request, sender):
            body = bytes_of(response, "openai_response")
            for key in ("id", "model", "root"):  # in texts of the answer quotes are escaped
                body = body.replace(f'"{key}":"{self._model}"'.encode(), f'"{key}":"{self._name}"'.encode())
            others = [tensor for tensor in response.output_tensors() if tensor.name() != "openai_response"]
            yield [elements("openai_response", [body]), *others]

    def _ask(self, inputs: list[Any], outputs: list[str], request: Any, sender: Any) -> Iterator[Any]:
        """The vLLM model's responses to what our client's ``request`` needs, until it is done or the client has gone.

        Raises:
            AnsweredError: the vLLM model refuses the request, or Triton does.
        """
        if sender.is_cancelled():  # while it waited
            return
        asked = pb_utils.InferenceRequest(
            model_name=self._model,
            request_id=request.request_id(),
            inputs=inputs,
            requested_output_names=outputs,
            timeout=request.timeout(),
        )
        responses = asked.exec(decoupled=True)
        cancelled = False
        for response in responses:  # to the end in any case: Triton holds on to responses that are not taken
            if cancelled:
                continue
            if response.has_error():
                raise AnsweredError(response.error())
            if sender.is_cancelled():
                cancelled = True
                # Of the BLS of Triton since 2025. With older ones the vLLM model goes on to its end.
                if hasattr(responses, "cancel"):
                    responses.cancel()
            elif response.output_tensors():  # the last response may only say that it is the last
                yield response


def elements(name: str, values: list[bytes]) -> Any:
    """A tensor of type BYTES."""
    return pb_utils.Tensor(name, np.array(values, dtype=np.object_))


def strings(name: str, values: list[str]) -> Any:
    """The same, of texts."""
    return elements(name, [value.encode() for value in values])


def flag(name: str) -> Any:
    """A tensor of type BOOL that is true."""
    return pb_utils.Tensor(name, np.array([True]))


def bytes_of(response: Any, name: str) -> bytes:
    """The one element of an output."""
    return bytes(pb_utils.get_output_tensor_by_name(response, name).as_numpy()[0])


def text_of(response: Any, name: str) -> str:
    """The same, as a text."""
    return bytes_of(response, name).decode()
