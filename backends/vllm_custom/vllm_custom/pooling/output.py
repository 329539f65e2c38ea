"""What a pooling model gives, as the arrays of a response."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import EMBEDDING, NUM_INPUT_TOKENS, NUM_OUTPUT_TOKENS, SCORES, TEXT_OUTPUT
from vllm_custom.errors import UnavailableError
from vllm_custom.responses import ResponseDelta, check_finite

_OUTPUT_OF_TASK = {"embed": EMBEDDING, "token_embed": EMBEDDING, "classify": SCORES, "token_classify": SCORES}


@dataclass
class PooledOutput(ResponseDelta):
    """The only response of a pooling request.

    Attributes:
        name: of the output tensor, ``embedding`` or ``scores``.
        data: FP32, [size], or [tokens, size] for a task on tokens.
        as_text: also as a JSON list in text_output, which is what an embedding_request is answered with.
    """

    name: str = EMBEDDING
    data: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    as_text: bool = False

    @classmethod
    def of(cls, output: Any, task: str, *, as_text: bool) -> PooledOutput:
        """From a vLLM PoolingRequestOutput.

        Raises:
            UnavailableError: vLLM could not serve this request.
        """
        if getattr(output, "error", None):
            raise UnavailableError(f"vLLM cannot take this request: {output.error}")
        # bfloat16 has no numpy type.
        data = np.asarray(output.outputs.data.float().cpu(), dtype=np.float32)
        check_finite(_OUTPUT_OF_TASK[task], data)
        return cls(len(output.prompt_token_ids), name=_OUTPUT_OF_TASK[task], data=data, as_text=as_text)

    def arrays(self, additional: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
        """Output name to array; of ``additional`` only the token counts, of which there are none in the output."""
        arrays: dict[str, npt.NDArray[Any]] = {self.name: self.data}
        if self.as_text:
            arrays[TEXT_OUTPUT] = np.array([json.dumps(self.data.tolist()).encode()], dtype=np.object_)
        if NUM_INPUT_TOKENS in additional:
            arrays[NUM_INPUT_TOKENS] = np.array([self.num_input_tokens], dtype=np.uint32)
        if NUM_OUTPUT_TOKENS in additional:
            arrays[NUM_OUTPUT_TOKENS] = np.array([0], dtype=np.uint32)
        return arrays
