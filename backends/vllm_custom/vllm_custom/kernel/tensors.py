"""Elements of input tensors, and arrays of texts for outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequestError, invalid


def single(name: str, array: npt.NDArray[Any]) -> Any:
    """The only element of the tensor ``name``, whatever its shape.

    Raises:
        InvalidRequestError: there is not exactly one.
    """
    if array.size != 1:
        raise InvalidRequestError(f"{name}: expected exactly 1 element, got {array.size} elements")
    return array.reshape(-1)[0]


def decode(name: str, value: Any) -> str:
    """An element of a BYTES tensor as text: bytes from a client, a string from another Python model.

    Raises:
        InvalidRequestError: it is not UTF-8, or of a tensor that the configuration declares with another type.
    """
    if not isinstance(value, (bytes, str)):
        raise invalid(name, value, "text in a tensor of TYPE_STRING")
    try:
        if isinstance(value, str):
            value.encode()  # a lone surrogate is no text
            return value
        return value.decode("utf-8")
    except UnicodeError as error:
        place = error.start if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)) else 0
        raise invalid(name, value, f"UTF-8 text (byte {place} is not)") from error


def text_array(texts: Iterable[str]) -> npt.NDArray[np.object_]:
    """A 1-D STRING tensor; half a character, as an engine may give it, becomes a question mark."""
    return np.array([text.encode("utf-8", "replace") for text in texts], dtype=np.object_)
