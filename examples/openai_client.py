"""The openai library, against the frontend or the direct server: pip install openai."""

import base64
import os

from openai import OpenAI

MODEL = os.environ.get("MODEL", "shapes_vl")
IMAGE = os.environ.get("IMAGE", "docs/images/shapes.png")
IMAGE_URL = os.environ.get("IMAGE_URL", "http://media.internal/1.png")
QUESTION = {"type": "text", "text": "Describe the image."}
TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]},
    },
}

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:9000/v1"), api_key="none")


def chat(content, **options):
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **options)


with open(IMAGE, "rb") as file:
    uri = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
image = {"type": "image_url", "image_url": {"url": uri}}
print("bytes:", chat([image, QUESTION]).choices[0].message.content)

# The host has to be in ALLOWED_MEDIA_DOMAINS of the model.
linked = {"type": "image_url", "image_url": {"url": IMAGE_URL}}
print("url:", chat([linked, QUESTION]).choices[0].message.content)

print("stream: ", end="")
for chunk in chat([image, QUESTION], stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

# The model needs TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE.
choice = {"type": "function", "function": {"name": "paint"}}
answer = chat("Paint it red.", tools=[TOOL], tool_choice=choice, max_tokens=50)
print("tool:", answer.choices[0].message.tool_calls[0].function.name)

prompts = ["1+1=", "2+3=", "4+4=", "3+6="]
answer = client.completions.create(model=MODEL, prompt=prompts, temperature=0, max_tokens=10)
print("batch:", [choice.text for choice in answer.choices])
