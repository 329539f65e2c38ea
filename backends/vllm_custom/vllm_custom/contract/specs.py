"""What a row of the contract's tables holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from vllm_custom.kernel.official_tensors import TensorType, tensor_config


class Trust(Enum):
    """Who decides about a request parameter."""

    FREE = "free"
    BOUNDED = "bounded"
    OPERATOR = "operator's"
    REFUSED = "refused"


class Use(Enum):
    """Which requests a parameter has an effect on; it is refused with others."""

    ALL = "all"
    PROMPTS = "prompts"  # not queries and documents
    GENERATION = "generation"  # not pooling models


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor. ``dims`` are without the batch dimension, -1 is any number of elements."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    meaning: str
    official: bool = False

    def as_config(self, *, optional: bool) -> dict[str, object]:
        """The tensor as ``auto_complete_model_config.add_input`` and ``add_output`` take it."""
        return tensor_config(self.name, TensorType(self.data_type, self.dims), optional=optional)


@dataclass(frozen=True)
class Exclusion:
    """Inputs that one request may not have together: none of ``inputs`` with any of ``others``.

    ``hint``: what to send instead, or why.
    """

    inputs: tuple[str, ...]
    others: tuple[str, ...]
    hint: str = ""

    def problem(self, given: Collection[str]) -> str:
        """What a client is told that has sent the inputs ``given``; an empty text where they may be combined."""
        found = [name for name in self.inputs if name in given]
        if not found or not any(name in given for name in self.others):
            return ""
        return f"{'/'.join(found)}: cannot be combined with {' and '.join(self.others)}{self.hint and f'; {self.hint}'}"


@dataclass(frozen=True)
class RequestParameterSpec:
    """One request parameter that is not a field of vLLM's SamplingParams (those are in VLLM_FIELDS).

    ``by`` names the config parameters that bound it, or open it where it is the operator's.
    """

    name: str
    type_name: str
    default: str
    meaning: str
    official: bool = False
    trust: Trust = Trust.FREE
    by: tuple[str, ...] = ()
    use: Use = Use.ALL


@dataclass(frozen=True)
class FieldSpec:
    """One field of vLLM's SamplingParams or PoolingParams: who decides about it, and by which config parameters."""

    name: str
    trust: Trust = Trust.FREE
    by: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ConfigParameterSpec:
    """One entry of ``parameters`` in config.pbtxt.

    ``kind`` is bool, int, str, dict for a JSON object, or tuple for a list; ints have a minimum. ``parse`` makes a
    value of the text, or of each element of a list (separated by commas), and raises ValueError where it is not
    ``allowed``.
    """

    name: str
    kind: type
    default: bool | int | str | tuple[()] | dict[str, object]
    meaning: str
    minimum: int = 0
    unit: str = ""
    official: bool = False
    parse: Callable[[str], object] | None = None
    allowed: str = ""

    @property
    def is_limit(self) -> bool:
        """Whether it bounds what a request may ask for, so that it belongs in the table of limits."""
        return self.kind is int and ("MAX_" in self.name or self.name.endswith("_SECONDS"))
