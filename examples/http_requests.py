"""Triton's generate and generate_stream with requests: pip install requests."""

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor

import requests

SERVER = os.environ.get("TRITON_HTTP", "localhost:8000")
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

session = requests.Session()


def generate(**body):
    response = session.post(f"http://{SERVER}/v2/models/{MODEL}/generate", json={"temperature": 0, **body}, timeout=120)
    if response.status_code != 200:
        raise RuntimeError(response.json()["error"])
    return response.json()


with open(IMAGE, "rb") as file:
    image = base64.b64encode(file.read()).decode()
print("bytes:", generate(text_input=QUESTION, image=[image])["text_output"])

# The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
print("url:", generate(text_input=QUESTION, image=[IMAGE_URL])["text_output"])

url = f"http://{SERVER}/v2/models/{MODEL}/generate_stream"
body = {"text_input": QUESTION, "image": [image], "temperature": 0, "stream": True}
with session.post(url, json=body, stream=True, timeout=120) as response:
    print("stream: ", end="")
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                raise RuntimeError(event["error"])
            print(event["text_output"], end="", flush=True)
    print()

# The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
answer = generate(
    messages=json.dumps([{"role": "user", "content": "Paint it red."}]),
    sampling_parameters=json.dumps(
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "paint"}}, "max_tokens": 50}
    ),
)
print("tool:", json.loads(answer["tool_calls"])[0]["function"]["name"])

# The server batches what comes at the same time.
with ThreadPoolExecutor(4) as pool:
    answers = pool.map(
        lambda text: generate(text_input=text, exclude_input_in_output=True), ["1+1=", "2+3=", "4+4=", "3+6="]
    )
    print("batch:", [answer["text_output"] for answer in answers])
