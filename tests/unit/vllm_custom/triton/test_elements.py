"""BYTES tensors as Triton's stub hands them over: what is too much is refused without being read."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import fakes
from vllm_custom.contract.settings import Settings
from vllm_custom.request import ClientRules, parse_request
from vllm_custom.triton.elements import bound_elements, read_elements

MILLION = 1_000_000


def encoded(*elements: bytes) -> Any:
    """As the stub has them: single characters."""
    return np.frombuffer(b"".join(struct.pack("<I", len(element)) + element for element in elements), "S1")


def read(data: Any, shape: list[int], most: int = 4) -> Any:
    return read_elements(data, most).reshape(shape)


@pytest.mark.parametrize("elements", [[], [b""], [b"a", b"", b"\0\xff" * 3, "é".encode()]])
def test_elements_are_read(elements: list[bytes]) -> None:
    found = read(encoded(*elements), [len(elements)])
    assert (found.dtype, list(found)) == (np.object_, elements)
    assert read(encoded(b"a", b"b"), [2, 1]).tolist() == [[b"a"], [b"b"]]


def test_too_many_take_no_memory_and_keep_their_shape() -> None:
    found = read(np.zeros(4 * MILLION, "S1"), [MILLION])
    assert (found.shape, found.strides) == ((MILLION,), (0,))
    assert found.reshape(-1)[MILLION - 1] == b""


@pytest.mark.parametrize("data", [b"\1\0\0", b"\2\0\0\0a", b"\xff\xff\xff\xff"])
def test_what_ends_too_soon_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ends within"):
        read(np.frombuffer(data, "S1"), [1])


def test_more_elements_than_the_shape_says_are_refused() -> None:
    with pytest.raises(ValueError, match="more elements than its shape"):
        read(encoded(*[b"a"] * 5), [4])


@pytest.mark.parametrize(("name", "told"), [("image", "MEDIA_MAX_ITEMS"), ("documents", "SCORE_MAX_DOCUMENTS")])
def test_a_million_elements_are_refused_by_their_limit(name: str, told: str) -> None:
    triton = SimpleNamespace()
    bound_elements(triton, Settings.from_model_config({"name": "model", "max_batch_size": 8}))
    many = triton.deserialize_bytes_tensor(np.zeros(4 * MILLION, "S1")).reshape([MILLION])
    prompt = "queries" if name == "documents" else "text_input"
    tensors = {prompt: np.array([b"a"], np.object_), name: many}
    _, error = fakes.outcome(lambda: parse_request(tensors, "{}", (), rules=ClientRules()))
    assert told in str(error)


def test_every_allowed_number_is_read() -> None:
    triton = SimpleNamespace()
    settings = Settings.from_model_config({"name": "model", "max_batch_size": 2})
    bound_elements(triton, settings)
    many = 2 * settings.max_token_ids
    assert triton.deserialize_bytes_tensor(np.zeros(4 * many, "S1")).shape == (many,)
