"""The tensors of the official vLLM backend: one table for auto-completion and for reading requests."""

from __future__ import annotations

from typing import Any

from vllm_backend_lib.errors import ModelLoadError, invalid
from vllm_backend_lib.interfaces import Array, Request, Tensor


def _optional(name: str, data_type: str, dims: int = 1) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": [dims], "optional": True}


INPUTS: tuple[dict[str, Any], ...] = (
    {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},
    _optional("image", "TYPE_STRING", dims=-1),
    _optional("stream", "TYPE_BOOL"),
    _optional("sampling_parameters", "TYPE_STRING"),
    _optional("exclude_input_in_output", "TYPE_BOOL"),
    _optional("return_finish_reason", "TYPE_BOOL"),
    _optional("return_cumulative_logprob", "TYPE_BOOL"),
    _optional("return_logprobs", "TYPE_BOOL"),
    _optional("return_num_input_tokens", "TYPE_BOOL"),
    _optional("return_num_output_tokens", "TYPE_BOOL"),
    _optional("embedding_request", "TYPE_STRING"),
)

OUTPUTS: tuple[dict[str, Any], ...] = (
    {"name": "text_output", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "finish_reason", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "cumulative_logprob", "data_type": "TYPE_FP32", "dims": [-1]},
    {"name": "logprobs", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "num_input_tokens", "data_type": "TYPE_UINT32", "dims": [1]},
    {"name": "num_output_tokens", "data_type": "TYPE_UINT32", "dims": [-1]},
)

ADDITIONAL_OUTPUTS = tuple(output["name"] for output in OUTPUTS if output["name"] != "text_output")
"""Outputs that are sent only when the input `return_<name>` is true."""


DECOUPLED_ONLY = "config.pbtxt: model_transaction_policy.decoupled: expected true or no value, got false"


def check_policies(declared: dict[str, Any]) -> None:
    """Raises ModelLoadError where config.pbtxt asks for what this backend does not do."""
    if declared.get("model_transaction_policy", {}).get("decoupled") is False:
        raise ModelLoadError(DECOUPLED_ONLY)
    batch_size = declared.get("max_batch_size", 0)
    if batch_size > 0:
        raise ModelLoadError(f"config.pbtxt: max_batch_size: expected 0 (vLLM batches by itself), got {batch_size}")


def add_missing_tensors(config: Any) -> None:
    """Adds to Triton's model configuration what the user has not declared; declared tensors stay as they are."""
    declared = config.as_dict()
    inputs = {tensor["name"] for tensor in declared["input"]}
    outputs = {tensor["name"] for tensor in declared["output"]}
    for tensor in INPUTS:
        if tensor["name"] not in inputs:
            config.add_input(dict(tensor))
    for tensor in OUTPUTS:
        if tensor["name"] not in outputs:
            config.add_output(dict(tensor))


class Inputs:
    """The input tensors of one request by name; each is converted only when it is read."""

    def __init__(self, request: Request) -> None:
        self._tensors: dict[str, Tensor] = {tensor.name(): tensor for tensor in request.inputs()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def elements(self, name: str) -> list[Any]:
        """All elements of a tensor in order, whatever its shape; empty if it was not sent."""
        tensor = self._tensors.get(name)
        return [] if tensor is None else list(_flat(tensor.as_numpy()))

    def single(self, name: str) -> Any:
        """The only element of a tensor, None if it was not sent.

        Raises InvalidRequestError if there is not exactly one.
        """
        if name not in self._tensors:
            return None
        values = self.elements(name)
        if len(values) != 1:
            raise invalid(name, f"{len(values)} elements", "exactly one element")
        return values[0]

    def text(self, name: str) -> str | None:
        """The only element of a STRING tensor as text, None if it was not sent."""
        value = self.single(name)
        return None if value is None else as_text(name, value)

    def flag(self, name: str) -> bool | None:
        """The only element of a BOOL tensor, None if it was not sent."""
        value = self.single(name)
        return None if value is None else bool(value)


def as_text(field: str, value: Any) -> str:
    """Text from an element of a STRING tensor: bytes from a client, str from another Python model."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(field, f"bytes that are not UTF-8 (at offset {error.start})", "UTF-8 text") from error


def _flat(array: Array) -> Array:
    return array.reshape(-1)
