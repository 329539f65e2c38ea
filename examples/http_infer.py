"""tritonclient over HTTP: pip install "tritonclient[http]".

/infer gives one response, so the model needs `model_transaction_policy { decoupled: false }`; for streams use
generate_stream (http_requests.py) or gRPC.
"""

import json
import os

import numpy as np
import tritonclient.http as httpclient

SERVER = os.environ.get("TRITON_HTTP", "localhost:8000")
MODEL = os.environ.get("MODEL", "shapes_infer")
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
    tensor = httpclient.InferInput(name, [len(values)], "BYTES")
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    tensor.set_data_from_numpy(np.array(encoded, dtype=np.object_))
    return tensor


def flag(name):
    tensor = httpclient.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor


def text(result, name="text_output"):
    return result.as_numpy(name)[0].decode()


def ask(*inputs, **parameters):
    return client.infer(MODEL, list(inputs), parameters={"temperature": 0.0, **parameters})


with open(IMAGE, "rb") as file:
    image = file.read()  # the bytes of the file, without base64

with httpclient.InferenceServerClient(SERVER, concurrency=4) as client:
    print("bytes:", text(ask(strings("text_input", QUESTION), strings("image", image))))

    # The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
    print("url:", text(ask(strings("text_input", QUESTION), strings("image", IMAGE_URL))))

    # The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
    choice = {"type": "function", "function": {"name": "paint"}}
    messages = strings("messages", json.dumps([{"role": "user", "content": "Paint it red."}]))
    result = ask(messages, tools=json.dumps([TOOL]), tool_choice=json.dumps(choice), max_tokens=50)
    print("tool:", json.loads(text(result, "tool_calls"))[0]["function"]["name"])

    questions = ["1+1=", "2+3=", "4+4=", "3+6="]
    begun = [
        client.async_infer(
            MODEL,
            [strings("text_input", question), flag("exclude_input_in_output")],
            parameters={"temperature": 0.0},
        )
        for question in questions
    ]
    print("batch:", [text(request.get_result()) for request in begun])
