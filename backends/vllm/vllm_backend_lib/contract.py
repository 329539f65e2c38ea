"""The tensors of the official vLLM backend: one table for auto-completion and for reading requests."""

from __future__ import annotations

from typing import Any

from vllm_backend_lib.interfaces import Request, Tensor
from vllm_backend_lib.kernel import errors, official_tensors, tensors

_REQUIRED = "text_input"
_TEXT_OUTPUT = "text_output"

INPUTS = tuple(
    official_tensors.tensor_config(name, kind, optional=name != _REQUIRED)
    for name, kind in official_tensors.OFFICIAL_INPUTS.items()
)
OUTPUTS = tuple(
    official_tensors.tensor_config(name, kind, optional=False)
    for name, kind in official_tensors.OFFICIAL_OUTPUTS.items()
)
ADDITIONAL_OUTPUTS = tuple(name for name in official_tensors.OFFICIAL_OUTPUTS if name != _TEXT_OUTPUT)
"""Outputs that are sent only when the input `return_<name>` is true."""

DECOUPLED_ONLY = "config.pbtxt: model_transaction_policy.decoupled: expected true or no value, got false"


def check_policies(declared: dict[str, Any]) -> None:
    """Raises ConfigError where config.pbtxt asks for what this backend does not do."""
    if declared.get("model_transaction_policy", {}).get("decoupled") is False:
        raise errors.ConfigError(DECOUPLED_ONLY)
    batch_size = declared.get("max_batch_size", 0)
    if batch_size > 0:
        raise errors.ConfigError(f"config.pbtxt: max_batch_size: expected 0 (vLLM batches by itself), got {batch_size}")


def add_missing_tensors(config: Any) -> None:
    """Adds to Triton's model configuration what the user has not declared; declared tensors stay as they are."""
    official_tensors.add_missing_tensors(config, map(dict, INPUTS), map(dict, OUTPUTS))


class Inputs:
    """The input tensors of one request by name; each is converted only when it is read."""

    def __init__(self, request: Request) -> None:
        self._tensors: dict[str, Tensor] = {tensor.name(): tensor for tensor in request.inputs()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def elements(self, name: str) -> list[Any]:
        """All elements of a tensor in order, whatever its shape; empty if it was not sent."""
        tensor = self._tensors.get(name)
        return [] if tensor is None else list(tensor.as_numpy().reshape(-1))

    def single(self, name: str) -> Any:
        """The only element of a tensor, None if it was not sent.

        Raises InvalidRequestError if there is not exactly one.
        """
        tensor = self._tensors.get(name)
        return None if tensor is None else tensors.single(name, tensor.as_numpy())

    def text(self, name: str) -> str | None:
        """The only element of a STRING tensor as text, None if it was not sent."""
        value = self.single(name)
        return None if value is None else tensors.decode(name, value)

    def flag(self, name: str) -> bool | None:
        """The only element of a BOOL tensor, None if it was not sent."""
        value = self.single(name)
        return None if value is None else bool(value)
