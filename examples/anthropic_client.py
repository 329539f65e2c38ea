"""The anthropic library, against the frontend or the direct server: pip install anthropic."""

import asyncio
import base64
import os

import anthropic

MODEL = os.environ.get("MODEL", "shapes_vl")
SERVER = os.environ.get("ANTHROPIC_BASE_URL", "http://localhost:9000")
IMAGE = os.environ.get("IMAGE", "docs/images/shapes.png")
IMAGE_URL = os.environ.get("IMAGE_URL", "http://media.internal/1.png")
QUESTION = {"type": "text", "text": "Describe the image."}
TOOL = {
    "name": "paint",
    "input_schema": {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]},
}


def message(content, **options):
    given = {"model": MODEL, "max_tokens": 50, "extra_body": {"temperature": 0}, **options}
    return {**given, "messages": [{"role": "user", "content": content}]}


client = anthropic.Anthropic(base_url=SERVER, api_key="none")
with open(IMAGE, "rb") as file:
    data = base64.b64encode(file.read()).decode()
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
print("bytes:", client.messages.create(**message([image, QUESTION])).content[0].text)

# The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
linked = {"type": "image", "source": {"type": "url", "url": IMAGE_URL}}
print("url:", client.messages.create(**message([linked, QUESTION])).content[0].text)

print("stream: ", end="")
with client.messages.stream(**message([image, QUESTION])) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()

# The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
answer = client.messages.create(**message("Paint it red.", tools=[TOOL], tool_choice={"type": "tool", "name": "paint"}))
print("tool:", next(block.name for block in answer.content if block.type == "tool_use"))


async def batch(questions):
    async with anthropic.AsyncAnthropic(base_url=SERVER, api_key="none") as many:
        answers = await asyncio.gather(*(many.messages.create(**message(question)) for question in questions))
    return [answer.content[0].text for answer in answers]


print("batch:", asyncio.run(batch(["1+1=", "2+3=", "4+4=", "3+6="])))
