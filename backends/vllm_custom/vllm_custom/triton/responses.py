"""Make Triton responses: the only place that turns arrays and errors into ``pb_utils`` objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import BackendError


class ResponseBuilder:
    """Builds responses with the outputs that the model configuration declares."""

    def __init__(self, pb_utils: Any, declared_outputs: frozenset[str], *, batched: bool) -> None:
        """``batched``: max_batch_size > 0, so that every output has a leading batch dimension."""
        self._pb = pb_utils
        self._declared = declared_outputs
        self._batched = batched

    def outputs(self, rows: list[Mapping[str, npt.NDArray[Any]]]) -> Any:
        """A response from one mapping of output name to array per row of the request (one row if not batched)."""
        tensors = [
            self._pb.Tensor(name, np.stack([row[name] for row in rows]) if self._batched else array)
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
