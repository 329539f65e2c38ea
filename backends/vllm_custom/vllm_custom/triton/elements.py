"""Read BYTES tensors within a bound: Triton's own reader makes an object of each element before anything is checked.

A request of 30 MB may have ten million empty elements, for which it needs many seconds and hundreds of megabytes.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.settings import Settings

_LENGTH = struct.Struct("<I")


def bound_elements(pb_utils: Any, settings: Settings) -> None:
    """Have Triton's stub read BYTES tensors with :func:`read_elements`.

    It looks the function up for each tensor. What no limit of ``settings`` allows is not read.
    """
    most = max(settings.media_max_items, settings.score_max_documents, settings.max_token_ids)
    pb_utils.deserialize_bytes_tensor = functools.partial(read_elements, most=most * max(1, settings.max_batch_size))


def read_elements(encoded: npt.NDArray[Any], most: int) -> Any:
    """The elements of a tensor, each with its length in four bytes before it.

    Returns:
        An array of ``bytes``. Where there are more than ``most``, an object that can only be given the tensor's shape:
        as many empty elements, which take no memory, for the limits to refuse.

    Raises:
        ValueError: an element is longer than what is left.
    """
    view = encoded.view(np.uint8).data
    elements: list[bytes] = []
    start = 0
    while start < len(view):
        if len(elements) == most:
            return _TooMany(most)
        if start + _LENGTH.size > len(view):
            raise ValueError("a BYTES tensor ends within the length of an element")
        (size,) = _LENGTH.unpack_from(view, start)
        start += _LENGTH.size
        if start + size > len(view):
            raise ValueError("a BYTES tensor ends within an element")
        elements.append(bytes(view[start : start + size]))
        start += size
    return np.array(elements, dtype=np.object_)


class _TooMany:
    def __init__(self, most: int) -> None:
        self._most = most

    def reshape(self, shape: Sequence[int]) -> npt.NDArray[np.object_]:
        """Raises: ValueError: the shape says that there are fewer."""
        if math.prod(shape) <= self._most:
            raise ValueError(f"a BYTES tensor has more elements than its shape {list(shape)}")
        return np.broadcast_to(np.array(b"", dtype=np.object_), shape)
