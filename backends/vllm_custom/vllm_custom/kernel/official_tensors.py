"""Inputs and outputs of the official vLLM backend, release r26.01, and the completion of config.pbtxt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class TensorType(NamedTuple):
    """``dims`` are without the batch dimension, -1 is any number of elements."""

    data_type: str
    dims: tuple[int, ...]


_TEXT = TensorType("TYPE_STRING", (1,))
_TEXTS = TensorType("TYPE_STRING", (-1,))
_FLAG = TensorType("TYPE_BOOL", (1,))

OFFICIAL_INPUTS: Mapping[str, TensorType] = {
    "text_input": _TEXT,
    "image": _TEXTS,
    "stream": _FLAG,
    "sampling_parameters": _TEXT,
    "exclude_input_in_output": _FLAG,
    "return_finish_reason": _FLAG,
    "return_cumulative_logprob": _FLAG,
    "return_logprobs": _FLAG,
    "return_num_input_tokens": _FLAG,
    "return_num_output_tokens": _FLAG,
    "embedding_request": _TEXT,
}

OFFICIAL_OUTPUTS: Mapping[str, TensorType] = {
    "text_output": _TEXTS,
    "finish_reason": _TEXTS,
    "cumulative_logprob": TensorType("TYPE_FP32", (-1,)),
    "logprobs": _TEXTS,
    "num_input_tokens": TensorType("TYPE_UINT32", (1,)),
    "num_output_tokens": TensorType("TYPE_UINT32", (-1,)),
}


def tensor_config(name: str, kind: TensorType, *, optional: bool) -> dict[str, Any]:
    """A tensor as ``add_input`` and ``add_output`` of Triton's ``ModelConfig`` take it."""
    entry: dict[str, Any] = {"name": name, "data_type": kind.data_type, "dims": list(kind.dims)}
    return entry | {"optional": True} if optional else entry


def add_missing_tensors(config: Any, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
    """Add to ``config``, Triton's ``ModelConfig``, the tensors that it does not declare; what is declared stays."""
    declared = config.as_dict()
    for given, tensors, add in (
        (declared["input"], inputs, config.add_input),
        (declared["output"], outputs, config.add_output),
    ):
        names = {tensor["name"] for tensor in given}
        for tensor in tensors:
            if tensor["name"] not in names:
                add(tensor)
