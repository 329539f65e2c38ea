"""Forms with an audio file: JSON here, multipart/form-data for vLLM, which gets what our decoders make of the file.

Samples travel as a WAV file of 32-bit floats, which holds them as they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import invalid
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader

_FILE = "file"
_MOST_FIELDS = 100
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,100}\Z")
# In addition to those whose names end in [].
_LISTS = frozenset({"timestamp_granularities", "include"})
_FLOAT_SAMPLES = 3


def without_file(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form without its file."""
    return {name: value for name, value in body.items() if name != _FILE}


def check_form(body: Mapping[str, Any]) -> None:
    """Refuse what cannot be a form with an audio file.

    Raises:
        InvalidRequestError: it is none.
    """
    file = body.get(_FILE)
    if not isinstance(file, str) or not file.strip():
        raise invalid(_FILE, file, "an audio file; in JSON as base64, or its data: URI or URL")
    values = sum(len(value) if isinstance(value, list) else 1 for value in body.values())
    if values > _MOST_FIELDS:
        raise invalid("body", values, f"at most {_MOST_FIELDS} fields of a form")
    for name, value in body.items():
        if not _NAME.match(name):
            raise invalid("body", name, "names of letters, digits and _ . - [ ], of at most 100 characters")
        # vLLM would take the last one, which was not checked.
        if isinstance(value, list) and not (name.endswith("[]") or name in _LISTS):
            raise invalid(name, value, "the field once")


@asynccontextmanager
async def form_with_audio(body: Mapping[str, Any], media: MediaLoader) -> AsyncIterator[tuple[str, bytes]]:
    """Content type and content of the form for vLLM; the bytes of its audio count as used inside the ``with`` block.

    Args:
        body: checked by :func:`check_form`.
        media: loads within the model's rules.

    Raises:
        InvalidRequestError, UnavailableError: the audio is refused, or cannot be decoded now.
    """
    element = MediaElement("audio", _FILE, str(body[_FILE]).encode("utf-8", "surrogatepass"))
    with await media.load([element]) as (audio,):
        yield await asyncio.to_thread(_written, without_file(body), *audio.data)


def _written(fields: Mapping[str, Any], samples: npt.NDArray[np.float32], rate: float) -> tuple[str, bytes]:
    boundary = os.urandom(16).hex()
    pieces = []
    for name, text in _texts(fields):
        pieces.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode())
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_FILE}"; filename="audio.wav"\r\n\r\n'.encode()
    pieces += [head, _wav(samples, round(rate)), f"\r\n--{boundary}--\r\n".encode()]
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _texts(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                text = one if isinstance(one, str) else json.dumps(one)
                yield name, text.encode("utf-8", "replace").decode()


def _wav(samples: npt.NDArray[np.float32], rate: int) -> bytes:
    data = np.ascontiguousarray(samples, dtype="<f4").tobytes()
    width = samples.dtype.itemsize
    form = struct.pack("<HHIIHH", _FLOAT_SAMPLES, 1, rate, rate * width, width, 8 * width)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data
