"""Parameters as typed tensors: an input that the user declares under a parameter's name is that parameter."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.errors import InvalidRequestError
from vllm_custom.kernel.tensors import decode
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors


class ParameterTensors:
    """The declared inputs that are named like a request parameter."""

    def __init__(self, declared: Iterable[str], sampling_fields: Mapping[str, Any]) -> None:
        """
        Args:
            declared: names of all inputs in the model's configuration.
            sampling_fields: name to type of vLLM's sampling parameters.
        """
        control = {name: field.annotation for name, field in RequestParameters.model_fields.items()}
        known = {**sampling_fields, **control}
        self._is_list = {name: takes_list(known[name]) for name in declared if name in known}

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors to read from a request."""
        return tuple(self._is_list)

    def values(self, tensors: Tensors, rules: ClientRules | None = None) -> dict[str, Any]:
        """The parameters among ``tensors`` (one row, no batch dimension) as plain values.

        Raises:
            InvalidRequestError: a wrong number of elements, or text that is not UTF-8.
        """
        rules = rules or ClientRules()
        return {name: self._value(name, tensors[name], rules) for name in self._is_list if name in tensors}

    def _value(self, name: str, array: npt.NDArray[Any], rules: ClientRules) -> Any:
        rules.check(name, array.size, "MAX_TOKEN_IDS", "elements in the input tensor")
        elements = [_plain(name, element) for element in array.reshape(-1)]
        if self._is_list[name]:
            return elements
        if len(elements) != 1:
            raise InvalidRequestError(
                f"{name}: expected exactly 1 element in the input tensor, since this parameter is not a list, "
                f"got {len(elements)} elements"
            )
        return elements[0]


def takes_list(annotation: Any) -> bool:
    """Whether a field of this type holds a list (possibly among other things)."""
    origin = typing.get_origin(annotation)
    if origin is Annotated or origin in (Union, types.UnionType):
        return any(takes_list(inner) for inner in typing.get_args(annotation))
    return list in (annotation, origin)


def _plain(name: str, element: Any) -> Any:
    """A Python value. FP32 and FP16 give the shortest decimal: 0.7 is the 0.7 that JSON would have carried."""
    if isinstance(element, bytes):
        return decode(name, element)
    if isinstance(element, (np.float32, np.float16)):
        return float(str(element))
    return element.item() if isinstance(element, np.generic) else element
