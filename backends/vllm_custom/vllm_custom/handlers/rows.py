"""From a request's tensors to one typed call per row."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_custom.contract.names import EMBEDDING_REQUEST
from vllm_custom.contract.settings import Settings
from vllm_custom.contract.tensors import INPUTS
from vllm_custom.engine import Engine
from vllm_custom.handlers.base import Incoming, Parsed, shortest, trace_of
from vllm_custom.request import (
    ClientRules,
    InferenceCall,
    ParameterTensors,
    Tensors,
    parse_embedding_request,
    parse_request,
    read_word_lists,
    split_batch,
)
from vllm_custom.request.field_rules import sequences


class RowReader:
    """Reads the rows of requests to one model."""

    def __init__(self, engine: Engine, settings: Settings, rules: ClientRules, *, traces: bool = False) -> None:
        """``traces``: whether requests have spans, apart from the engine's own."""
        facts = engine.facts
        self._rules = rules
        fields = {**facts.pooling_fields, **facts.scoring_fields, **facts.sampling_fields}
        self._field_names = list(fields)
        self._typed = ParameterTensors(settings.declared_inputs - {spec.name for spec in INPUTS}, fields)
        self._batched = settings.max_batch_size > 0
        self._traces = traces or facts.traces

    @property
    def input_names(self) -> tuple[str, ...]:
        """Tensors that a request may have."""
        return (*(spec.name for spec in INPUTS), *self._typed.names)

    def read(self, incoming: Incoming) -> list[InferenceCall]:
        """One call per row, one row where the model has no batch dimension.

        Raises:
            InvalidRequestError: names the input or parameter, its value, and what is expected.
        """
        rows = split_batch(incoming.tensors) if self._batched else [incoming.tensors]
        return [self._call(row, incoming.parameters) for row in rows]

    def parsed(self, incoming: Incoming, calls: Sequence[InferenceCall]) -> Parsed:
        """What the runner has to know of ``calls``."""
        return Parsed(
            calls,
            timeout_us=shortest(incoming.timeout_us, *(call.control.timeout for call in calls)),
            sequences=sum(sequences(call.sampling) for call in calls),
            additional_outputs=calls[0].additional_outputs,
            trace_headers=trace_of(calls[0].control.trace_headers, incoming.span) if self._traces else None,
        )

    def _call(self, row: Tensors, parameters: str) -> InferenceCall:
        if EMBEDDING_REQUEST in row:
            return parse_embedding_request(row, self._rules)
        typed = {**read_word_lists(row, self._rules), **self._typed.values(row, self._rules)}
        return parse_request(row, parameters, self._field_names, typed, self._rules)
