"""What is new in a response, per generated sequence, and how two of them become one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import (
    CUMULATIVE_LOGPROB,
    LOGPROBS,
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    OUTPUT_IDS,
    PROMPT_LOGPROBS,
    REASONING,
    REQUEST_METRICS,
    TEXT_OUTPUT,
    TOOL_CALLS,
)
from vllm_custom.contract.tensors import ADDITIONAL_OUTPUTS, NO_TOKEN
from vllm_custom.engine.figures import Figures, figures_of
from vllm_custom.kernel.numbers import PlainLogprobs, json_sum, plain_logprobs
from vllm_custom.kernel.tensors import text_array


@dataclass(slots=True)
class SequenceDelta:
    """New text and tokens of one generated sequence."""

    text: str = ""
    num_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: PlainLogprobs | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, later: SequenceDelta) -> None:
        """Append what came later."""
        self.text += later.text
        self.num_tokens += later.num_tokens
        self.token_ids += later.token_ids
        self.reasoning += later.reasoning
        self.tool_calls += later.tool_calls
        if later.logprobs is not None:
            self.logprobs = [*(self.logprobs or []), *later.logprobs]
        if later.cumulative_logprob is not None:
            self.cumulative_logprob = later.cumulative_logprob
        self.finish_reason = later.finish_reason or self.finish_reason
        if later.stop_reason is not None:
            self.stop_reason = later.stop_reason


@dataclass(slots=True)
class ResponseDelta:
    """One response's worth of outputs: a list of ``n`` sequences."""

    num_input_tokens: int
    sequences: list[SequenceDelta] = field(default_factory=list)
    prompt_logprobs: Any = None
    figures: Figures | None = None

    @classmethod
    def from_output(
        cls, output: Any, sequences: int, *, logprobs: bool = True, token_ids: bool = True, figures: bool = False
    ) -> ResponseDelta:
        """From a vLLM RequestOutput, which may hold only some of the ``sequences`` (n).

        ``logprobs``: false where vLLM was asked for them only to add them up. ``token_ids``, ``figures``: whether the
        request asks for them.
        """
        delta = cls(len(output.prompt_token_ids or ()), [SequenceDelta() for _ in range(sequences)])
        for completion in output.outputs:
            delta.sequences[completion.index] = SequenceDelta(
                text=completion.text,
                num_tokens=len(completion.token_ids),
                token_ids=list(completion.token_ids) if token_ids else [],
                logprobs=plain_logprobs(completion.logprobs) if logprobs else None,
                cumulative_logprob=completion.cumulative_logprob,
                finish_reason=completion.finish_reason,
                stop_reason=completion.stop_reason,
            )
        # A stream has them once; vLLM sends an empty list with the pieces that follow.
        delta.prompt_logprobs = output.prompt_logprobs or None
        delta.figures = figures_of(output, sequences) if figures and output.finished else None
        return delta

    def add(self, later: ResponseDelta) -> None:
        """Append what came later, sequence by sequence."""
        for mine, theirs in zip(self.sequences, later.sequences, strict=True):
            mine.add(theirs)
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.figures = later.figures or self.figures

    def prepend(self, prompt: str) -> None:
        """Put the prompt before each sequence's text (the official backend's default for raw prompts)."""
        for sequence in self.sequences:
            sequence.text = prompt + sequence.text

    def arrays(self, additional: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
        """Output name to array: text_output [n], and those of ``additional`` (those of the prompt [1], others [n])."""
        chosen = {name: self._array(name) for name in ADDITIONAL_OUTPUTS if name in additional}
        return {TEXT_OUTPUT: text_array(item.text for item in self.sequences)} | chosen

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name == NUM_INPUT_TOKENS:
            return np.array([self.num_input_tokens], dtype=np.uint32)
        if name == NUM_OUTPUT_TOKENS:
            return np.array([item.num_tokens for item in self.sequences], dtype=np.uint32)
        if name == OUTPUT_IDS:
            return _padded([item.token_ids for item in self.sequences])
        if name == CUMULATIVE_LOGPROB:
            return np.array([json_sum(item.cumulative_logprob) for item in self.sequences], dtype=np.float32)
        if name == REASONING:
            return text_array(item.reasoning for item in self.sequences)
        if name == TOOL_CALLS:
            return text_array(json.dumps(item.tool_calls) for item in self.sequences)
        if name == LOGPROBS:
            return text_array(_json(item.logprobs) for item in self.sequences)
        if name == PROMPT_LOGPROBS:
            return text_array([_json(plain_logprobs(self.prompt_logprobs))])
        if name == REQUEST_METRICS:
            return text_array([json.dumps(self.figures and self.figures.known())])
        return text_array(str(getattr(item, name)) for item in self.sequences)  # finish_reason and stop_reason


def _padded(rows: list[list[int]]) -> npt.NDArray[np.int32]:
    """Rows of one length, the shorter ones filled up."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), NO_TOKEN, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _json(logprobs: PlainLogprobs | None) -> str:
    """As JSON, token by token: all at once would hold the interpreter, and with it every other request."""
    return "null" if logprobs is None else f"[{', '.join(map(json.dumps, logprobs))}]"
