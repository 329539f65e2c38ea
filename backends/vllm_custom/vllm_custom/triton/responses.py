"""Make Triton responses: the only place that turns arrays and errors into ``pb_utils`` objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import OUTPUT_IDS
from vllm_custom.contract.tensors import NO_TOKEN
from vllm_custom.errors import BackendError, InvalidRequestError


class ResponseBuilder:
    """Builds responses with the outputs that the model configuration declares."""

    def __init__(self, pb_utils: Any, declared_outputs: frozenset[str], *, batched: bool) -> None:
        """``batched``: max_batch_size > 0, so that every output has a leading batch dimension."""
        self._pb = pb_utils
        self._declared = declared_outputs
        self._batched = batched

    def outputs(self, rows: list[Mapping[str, npt.NDArray[Any]]]) -> Any:
        """A response from one mapping of output name to array per row of the request (one row if not batched).

        Raises:
            InvalidRequestError: the rows' arrays differ in size, as those of tasks on tokens do.
        """
        tensors = [
            self._pb.Tensor(name, _stacked(name, [row[name] for row in rows]) if self._batched else array)
            for name, array in rows[0].items()
            if name in self._declared
        ]
        return self._pb.InferenceResponse(output_tensors=tensors)

    def error(self, error: BackendError) -> Any:
        """An error response with the error's own Triton code."""
        code = getattr(self._pb.TritonError, error.triton_code)
        return self._pb.InferenceResponse(error=self._pb.TritonError(str(error), code))

    @property
    def final_flag(self) -> int:
        """TRITONSERVER_RESPONSE_COMPLETE_FINAL."""
        return int(self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _stacked(name: str, arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if name == OUTPUT_IDS:
        arrays = _of_one_width(arrays)
    first = list(arrays[0].shape)
    for row, array in enumerate(arrays):
        if list(array.shape) != first:
            raise InvalidRequestError(
                f"{name}: expected outputs of one size in all rows of a batch, got {list(array.shape)} in row {row} "
                f"and {first} in row 0; send such rows as separate requests"
            )
    return np.stack(arrays)


def _of_one_width(arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Rows answer with different numbers of tokens, as a rule."""
    widest = max(array.shape[1] for array in arrays)
    return [np.pad(array, ((0, 0), (0, widest - array.shape[1])), constant_values=NO_TOKEN) for array in arrays]
