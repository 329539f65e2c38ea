"""Responses and errors as objects of Triton's Python binding."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from vllm_backend_lib.kernel import errors
from vllm_backend_lib.responses import NamedArrays


def to_response(content: NamedArrays | errors.BackendError) -> Any:
    """A response that holds these output tensors, or only an error."""
    if isinstance(content, errors.BackendError):
        return pb_utils.InferenceResponse(error=to_triton_error(content))
    tensors = [pb_utils.Tensor(name, array) for name, array in content.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def to_triton_error(error: errors.BackendError) -> Any:
    """The error with the code that belongs to its class."""
    return pb_utils.TritonError(str(error), getattr(pb_utils.TritonError, error.triton_code))
