"""tritonclient over gRPC, with asyncio: pip install "tritonclient[grpc]"."""

import asyncio
import json
import os

import numpy as np
import tritonclient.grpc.aio as grpcclient

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


async def pieces(client, *inputs, output="text_output", **parameters):
    """What comes of one request, piece by piece."""

    async def request():
        parameters.setdefault("temperature", 0.0)
        yield {"model_name": MODEL, "inputs": list(inputs), "parameters": parameters}

    async for result, error in client.stream_infer(request()):
        if error is not None:
            raise error
        if len(result.get_response().outputs):
            yield result.as_numpy(output)[0].decode()


async def whole(client, *inputs, **options):
    return "".join([piece async for piece in pieces(client, *inputs, **options)])


async def main():
    async with grpcclient.InferenceServerClient(SERVER) as client:
        with open(IMAGE, "rb") as file:
            image = file.read()
        print("bytes:", await whole(client, strings("text_input", QUESTION), strings("image", image)))

        # The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
        print("url:", await whole(client, strings("text_input", QUESTION), strings("image", IMAGE_URL)))

        print("stream: ", end="")
        async for piece in pieces(client, strings("text_input", QUESTION), strings("image", image), flag("stream")):
            print(piece, end="", flush=True)
        print()

        # The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
        calls = await whole(
            client,
            strings("messages", json.dumps([{"role": "user", "content": "Paint it red."}])),
            output="tool_calls",
            tools=json.dumps([TOOL]),
            tool_choice=json.dumps({"type": "function", "function": {"name": "paint"}}),
            max_tokens=50,
        )
        print("tool:", json.loads(calls)[0]["function"]["name"])

        questions = ["1+1=", "2+3=", "4+4=", "3+6="]
        alone = flag("exclude_input_in_output")
        answers = await asyncio.gather(*(whole(client, strings("text_input", text), alone) for text in questions))
        print("batch:", answers)


asyncio.run(main())
