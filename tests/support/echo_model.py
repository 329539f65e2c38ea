"""A small Triton model with openai_request that says what has reached it."""

from __future__ import annotations

CONFIG = """
backend: "python"
instance_group [ { kind: KIND_CPU } ]
model_transaction_policy { decoupled: true }
input [ { name: "openai_request" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "openai_response" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "openai_status" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "openai_headers" data_type: TYPE_STRING dims: [ 1 ] }
]
"""
# Answers with what it was sent; as a stream where it is asked for `events`, until the client goes. After `hang` it does
# not list its models for so many seconds.
MODEL = """
import json, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils


def response(body, status=None, kind=None):
    values = {"openai_response": body} | ({"openai_headers": json.dumps({"content-type": kind})} if kind else {})
    tensors = [pb_utils.Tensor(name, np.array([text.encode()], dtype=object)) for name, text in values.items()]
    if status:
        tensors.append(pb_utils.Tensor("openai_status", np.array([status], np.int32)))
    return pb_utils.InferenceResponse(tensors)


class TritonPythonModel:
    gone = 0
    hangs_until = 0.0

    def initialize(self, args):
        self.name = args["model_name"]

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "openai_request").as_numpy()[0].decode()
            asked = json.loads(text) | {"id": request.request_id(), "timeout": request.timeout()}
            work = threading.Thread(target=self.answer, args=(asked, request.get_response_sender()), daemon=True)
            work.start()

    def answer(self, asked, sender):
        body = asked.get("body") if isinstance(asked.get("body"), dict) else {}
        if "hang" in body:
            self.hangs_until = time.monotonic() + body["hang"]
        if asked["path"] == "/v1/models":
            while time.monotonic() < self.hangs_until and not sender.is_cancelled():
                time.sleep(0.05)
            cards = [{"id": name, "object": "model"} for name in (self.name, self.name + "-adapter")]
            pieces = iter([response(json.dumps({"data": cards}), 200, "application/json")])
        elif "refuse" in body:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(body["refuse"])), 1)
            return
        elif "events" in body:
            pieces = self.events(body, sender)
        else:
            document = json.dumps({"asked": asked, "gone": self.gone})
            pieces = iter([response(document, body.get("status", 200), "application/json")])
        for piece in pieces:
            sender.send(piece)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def events(self, body, sender):
        yield response("", 200, "text/event-stream")
        for number in range(body["events"]):
            if sender.is_cancelled():
                TritonPythonModel.gone += 1
                return
            yield response(f"data: {number}\\n\\n")
            time.sleep(body.get("pause", 0.0))
        if "break" in body:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(body["break"])), 1)
            return
        yield response("data: [DONE]\\n\\n")
"""
