"""Read the input tensors of a Triton request into plain arrays. The only module that touches the request object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]


def read_tensors(request: Any, get_tensor: Callable[[Any, str], Any], names: Iterable[str]) -> Tensors:
    """The tensors among ``names`` that the request has, name to array (BYTES elements are ``bytes`` objects).

    Args:
        request: a ``pb_utils.InferenceRequest``.
        get_tensor: ``pb_utils.get_input_tensor_by_name``; returns None for an absent tensor.
    """
    found = {name: get_tensor(request, name) for name in names}
    return {name: np.asarray(tensor.as_numpy()) for name, tensor in found.items() if tensor is not None}
