"""Small requests that once stopped a model for everybody, each with what makes it costly."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Hostile:
    """One request to ``generate``; ``make`` gives its body."""

    name: str
    why: str
    make: Callable[[], dict[str, Any]]

    def body(self) -> bytes:
        """The HTTP body."""
        return json.dumps(self.make()).encode()


def fax(side: int, mark: int = 0) -> str:
    """A TIFF of some kB that is ``side`` x ``side`` pixels; ``mark`` makes it another one."""
    image = Image.new("1", (side, side))
    image.putpixel((mark, 0), 1)
    out = io.BytesIO()
    image.save(out, "TIFF", compression="group4")
    return base64.b64encode(out.getvalue()).decode()


def png(width: int, height: int) -> str:
    """A plain image."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def hidden_frames(count: int) -> str:
    """An MP4 file whose table promises more samples than there are bytes: FFmpeg would make room for them."""
    entries = struct.pack(">I4sIII", 20, b"stsz", 0, 0, count)
    table = struct.pack(">I4s", 8 + len(entries), b"stbl") + entries
    minf = struct.pack(">I4s", 8 + len(table), b"minf") + table
    mdia = struct.pack(">I4s", 8 + len(minf), b"mdia") + minf
    trak = struct.pack(">I4s", 8 + len(mdia), b"trak") + mdia
    moov = struct.pack(">I4s", 8 + len(trak), b"moov") + trak
    ftyp = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 512)
    return base64.b64encode(ftyp + moov).decode()


def _image(*elements: str, **parameters: Any) -> dict[str, Any]:
    return {"text_input": "Describe the image.", "image": list(elements), "max_tokens": 4, **parameters}


def _text(**parameters: Any) -> dict[str, Any]:
    return {"text_input": "2+3=", "max_tokens": 4, **parameters}


def _template(**kwargs: Any) -> dict[str, Any]:
    return _text(apply_chat_template=True, chat_template_kwargs=json.dumps(kwargs))


def _openai(body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
    return {"openai_request": json.dumps({"path": path, "body": body})}


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _nested(levels: int, width: int) -> dict[str, Any]:
    """A schema of choices within choices."""
    if not levels:
        return {"type": "string", "maxLength": 3}
    inner = [
        {"type": "object", "properties": {f"p{levels}{place}": _nested(levels - 1, width)}} for place in range(width)
    ]
    return {"anyOf": inner}


_SURROGATE = '{"media_io_kwargs":{"video":{"\\ud800":1}}}'
_LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

INPUTS: tuple[Hostile, ...] = (
    Hostile("surrogate", "a lone surrogate in an error text", lambda: _text(sampling_parameters=_SURROGATE)),
    Hostile("padding panic", "a panic of the tokenizer", lambda: _template(padding="max_length", max_length=2**62)),
    Hostile("padding abort", "2**40 tokens of padding", lambda: _template(padding="max_length", max_length=2**40)),
    Hostile("template", "the client's own template loops", lambda: _template(chat_template=_LOOPS)),
    Hostile(
        "OpenAI padding",
        "the tokenizer's padding through vLLM's application",
        lambda: _openai(
            {
                "messages": _user("hi"),
                "chat_template_kwargs": {"tokenize": True, "padding": "max_length", "max_length": 2**40},
            }
        ),
    ),
    Hostile(
        "patch_size",
        "what the engine cannot take",
        lambda: _image(png(56, 56), mm_processor_kwargs='{"patch_size": 7}'),
    ),
    Hostile(
        "min_pixels",
        "an image blown up to 100 megapixels",
        lambda: _image(png(56, 56), mm_processor_kwargs='{"min_pixels": 100000000, "max_pixels": 100000000}'),
    ),
    Hostile("URL of 16,000", "a quadratic expression", lambda: _image("http://" + "a" * 16_000 + "#\nx")),
    Hostile("URL of 200,000", "the same, 150 times as long", lambda: _image("http://" + "a" * 200_000 + "#\nx")),
    Hostile("data: of 30 MB", "no comma", lambda: _image("data:" + ";" * 30_000_000)),
    Hostile("file: of 10**6 steps", "a path to follow", lambda: _image("file:///data/" + "a/" * 1_000_000)),
    Hostile("6 MB of chat", "tokens of a text that is too long", lambda: _text_chat("red circle " * 550_000)),
    Hostile("300,000 stop strings", "looked for after each token", lambda: _text(stop=json.dumps(_words(300_000)))),
    Hostile("bad_words", "each is tokenized", lambda: _text(bad_words=json.dumps(_words(50_000)))),
    Hostile("eight TIFFs", "400 megapixels in 16 kB", lambda: _image(*(fax(7000, mark) for mark in range(8)))),
    Hostile("thirty TIFFs", "1.5 gigapixels in 60 kB", lambda: _image(*(fax(7000, mark) for mark in range(30)))),
    Hostile(
        "MP4 table",
        "room for samples that are not there",
        lambda: {"text_input": "What is it?", "video": [hidden_frames(2**28)], "max_tokens": 4},
    ),
    Hostile("n", "16,384 sequences in one request", lambda: _text(n=16_384, temperature=1.0)),
    Hostile(
        "JSON of 8 MB",
        "millions of values",
        lambda: _openai({"prompt": [1] * 4_000_000}) | {},
    ),
    Hostile("schema", "takes long to compile", lambda: _text(guided_json=json.dumps(_nested(6, 3)))),
    Hostile(
        "wrong items",
        "241 reasons why each of 1,900 items is none",
        lambda: _openai({"input": _items(1900)}, "/v1/responses"),
    ),
    Hostile(
        "right items",
        "a union of thirty types for each of 1,950 items",
        lambda: _openai({"input": _items(1950, text="a")}, "/v1/responses"),
    ),
    Hostile(
        "log probabilities",
        "40,000 of them in one answer",
        lambda: _openai({"messages": _user("hi"), "max_tokens": 2000, "logprobs": True, "top_logprobs": 20}),
    ),
    Hostile("wrong tools", "200,000 of them", lambda: _openai({"messages": _user("hi"), "tools": [None] * 200_000})),
    Hostile("wrong choices", "200,000 of them", lambda: _text(guided_choice=json.dumps([1] * 200_000))),
    Hostile("tokenize", "10 MB of text", lambda: _openai({"prompt": "word " * 2_000_000}, "/tokenize")),
    Hostile("junk", "60 MB that nobody reads", lambda: _openai({"messages": _user("hi"), "junk": "x" * 60_000_000})),
    Hostile(
        "parts",
        "250,000 of them behind a first message that is none",
        lambda: _openai({"messages": ["hi", {"role": "user", "content": [{}] * 249_000}]}),
    ),
    Hostile("arguments", "60 MB in a tool call", lambda: _tool_call(json.dumps({"a": "x" * 60_000_000}))),
    Hostile("deep arguments", "10**5 levels in a tool call", lambda: _tool_call("[" * 100_000)),
    Hostile("prompt", "100 MB of text", lambda: _openai({"prompt": "word " * 20_000_000}, "/v1/completions")),
    Hostile(
        "cut prompt",
        "15 MB of text of which ten tokens are wanted",
        lambda: _openai({"prompt": "word " * 3_000_000, "truncate_prompt_tokens": 10}, "/v1/completions"),
    ),
    Hostile(
        "escapes", "40 million escaped characters", lambda: _openai({"messages": _user("hi"), "a": "\n" * 40_000_000})
    ),
    Hostile("empty images", "three million elements", lambda: _image(*([""] * 3_000_000))),
    Hostile("deep JSON", "10**5 levels", lambda: _text(guided_json="[" * 100_000 + "]" * 100_000)),
)


def _items(count: int, **part: Any) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", **part}]}] * count


def _tool_call(arguments: str) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": json.dumps([{"role": "assistant", "content": "", "tool_calls": [call]}, *_user("hi")])}


def _words(count: int) -> list[str]:
    return [f"zz{number}" for number in range(count)]


def _text_chat(text: str) -> dict[str, Any]:
    return {"text_input": text, "apply_chat_template": True, "max_tokens": 4}
