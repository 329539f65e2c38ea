"""What a request asks of a pooling model: vLLM's PoolingParams, and what only models that generate can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_custom.contract.names import EMBEDDING_REQUEST, TOKEN_COUNTS
from vllm_custom.contract.request_parameters import names_for
from vllm_custom.contract.specs import Use
from vllm_custom.engine.protocol import POOLING_TASKS, Engine
from vllm_custom.errors import InvalidRequestError, UnsupportedError, invalid, listing
from vllm_custom.kernel.fields import FieldReader
from vllm_custom.pooling.scoring import PairScorer
from vllm_custom.request import InferenceCall

_FOR_GENERATION = names_for(Use.GENERATION)


def reject_pooling_request(call: InferenceCall, pooling_fields: Sequence[str]) -> None:
    """Refuse what a model that generates cannot do.

    Raises:
        UnsupportedError: the request is one for a pooling model.
    """
    asked = [EMBEDDING_REQUEST] if call.embedding_request else []
    asked += ["queries, documents"] if call.pairs is not None else []
    asked += [name for name in call.sampling if name in pooling_fields]
    if asked:
        raise UnsupportedError(
            f"{asked[0]}: requires a pooling model (runner: pooling in model.json); this is a generative model"
        )


class PoolingBuilder:
    """Knows the tasks of one pooling model and the fields of PoolingParams."""

    def __init__(self, engine: Engine, pairs: PairScorer) -> None:
        """``pairs``: for requests with queries and documents."""
        self.pairs = pairs
        self._engine = engine
        self._fields = FieldReader(engine.facts.pooling_fields)
        self._tasks = [task for task in POOLING_TASKS if task in engine.facts.tasks]
        self._default = engine.facts.pooling_task

    def check(self, calls: Sequence[InferenceCall]) -> None:
        """Refuse what a pooling model cannot do; ``calls`` are the rows of one request.

        Raises:
            UnsupportedError: names the input or parameter.
            InvalidRequestError: rows that do not fit into one tensor, or pairs as :meth:`PairScorer.check` says.
        """
        for call in calls:
            unfit = [name for name in call.sampling if name not in (*self._fields.names, *self.pairs.field_names)]
            unfit += sorted(call.control.model_fields_set & _FOR_GENERATION)
            unfit += [f"return_{name}" for name in sorted(call.additional_outputs - TOKEN_COUNTS)]
            unfit += ["stream: true"] if call.stream else []
            if unfit:
                raise UnsupportedError(
                    f"{unfit[0]}: requires a generative model; this is a pooling model (tasks: {listing(self._tasks)})"
                )
            if call.pairs is not None:
                self.pairs.check(call, call.pairs)
                continue
            for_pairs = [name for name in call.sampling if name not in self._fields.names]
            if for_pairs:
                raise InvalidRequestError(f"{for_pairs[0]}: requires the inputs queries and documents")
            if len(calls) > 1 and self.task(call).startswith("token_"):
                raise InvalidRequestError(
                    f"task: expected a batch of one row with {self.task(call)}, which returns one row per token of the "
                    f"prompt, got {len(calls)} rows"
                )

    def task(self, call: InferenceCall) -> str:
        """The task of a request.

        Raises:
            InvalidRequestError: one that this model does not have.
        """
        task = call.sampling.get("task", self._default)
        if task not in self._tasks:
            if call.embedding_request:
                raise UnsupportedError(
                    f"embedding_request: requires the task embed; this model has {listing(self._tasks)}"
                )
            raise invalid("task", task, f"a task of this model: {listing(self._tasks)}")
        return str(task)

    def build(self, given: Mapping[str, Any], task: str) -> Any:
        """The PoolingParams of one request.

        Raises:
            InvalidRequestError: a value of the wrong type.
        """
        return self._engine.pooling_params(self._fields.read(given) | {"task": task})
