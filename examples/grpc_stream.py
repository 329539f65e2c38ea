"""tritonclient over gRPC, from a thread: pip install "tritonclient[grpc]"."""

import json
import os
import queue

import numpy as np
import tritonclient.grpc as grpcclient

SERVER = os.environ.get("TRITON_GRPC", "localhost:8001")
MODEL = os.environ.get("MODEL", "shapes_vl")
IMAGE = os.environ.get("IMAGE", "docs/images/shapes.png")
IMAGE_URL = os.environ.get("IMAGE_URL", "http://media.internal/1.png")
QUESTION = "Describe the image."
TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]},
    },
}


def strings(name, *values):
    tensor = grpcclient.InferInput(name, [len(values)], "BYTES")
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    tensor.set_data_from_numpy(np.array(encoded, dtype=np.object_))
    return tensor


def flag(name):
    tensor = grpcclient.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor


class Client:
    """One stream, which may carry many requests at once; answers are told apart by the ids of their requests."""

    def __init__(self):
        self.answers = queue.Queue()
        self.client = grpcclient.InferenceServerClient(SERVER)
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, *inputs, name="1", **parameters):
        parameters = {"temperature": 0.0, **parameters}
        self.client.async_stream_infer(MODEL, list(inputs), request_id=name, parameters=parameters)

    def results(self, requests=1):
        """Each response as (id of the request, result), until all requests have ended."""
        while requests:
            result, error = self.answers.get(timeout=120)
            if error is not None:
                raise error
            response = result.get_response()
            if len(response.outputs):
                yield response.id, result
            requests -= response.parameters["triton_final_response"].bool_param


def text(result, name="text_output"):
    return result.as_numpy(name)[0].decode()


client = Client()
with open(IMAGE, "rb") as file:
    image = file.read()  # the bytes of the file, without base64

client.send(strings("text_input", QUESTION), strings("image", image))
print("bytes:", "".join(text(result) for _, result in client.results()))

# The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
client.send(strings("text_input", QUESTION), strings("image", IMAGE_URL))
print("url:", "".join(text(result) for _, result in client.results()))

client.send(strings("text_input", QUESTION), strings("image", image), flag("stream"))
print("stream: ", end="")
for _, result in client.results():
    print(text(result), end="", flush=True)
print()

# The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
choice = {"type": "function", "function": {"name": "paint"}}
messages = json.dumps([{"role": "user", "content": "Paint it red."}])
client.send(strings("messages", messages), tools=json.dumps([TOOL]), tool_choice=json.dumps(choice), max_tokens=50)
for _, result in client.results():
    print("tool:", json.loads(text(result, "tool_calls"))[0]["function"]["name"])

questions = ["1+1=", "2+3=", "4+4=", "3+6="]
for question in questions:
    client.send(strings("text_input", question), flag("exclude_input_in_output"), name=question)
answers = {name: text(result) for name, result in client.results(len(questions))}
print("batch:", [answers[question] for question in questions])
client.client.stop_stream()
