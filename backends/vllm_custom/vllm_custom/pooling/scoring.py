"""Scores of pairs of texts, by vLLM's own means for its score request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_custom.contract.names import DOCUMENTS, SCORES
from vllm_custom.contract.request_parameters import names_for
from vllm_custom.contract.specs import Use
from vllm_custom.engine.protocol import Engine, PairScoring
from vllm_custom.errors import InvalidRequestError, UnsupportedError, invalid, listing
from vllm_custom.kernel.fields import FieldReader
from vllm_custom.pooling.output import PooledOutput
from vllm_custom.request import InferenceCall, TextPairs
from vllm_custom.responses import check_finite
from vllm_custom.runtime.async_utils import gather_all

_FOR_PROMPTS = names_for(Use.PROMPTS)
# Other requests need the renderer's threads, too.
_RENDERED_AT_ONCE = 16
_FOR_TEMPLATES = ("instruction", "chat_template_kwargs")


@dataclass(frozen=True)
class RenderedPairs:
    """What the engine reads for the pairs of one row: as many prompts as the kind of model needs.

    Attributes:
        account: the engine's account of the request.
        prompts: the engine's inputs, each with its PoolingParams.
    """

    account: Any
    prompts: Sequence[tuple[Mapping[str, Any], Any]]


class PairScorer:
    """Makes prompts of queries and documents for one model, and scores of what the engine gives for them."""

    def __init__(self, engine: Engine, template: str | None, max_documents: int) -> None:
        """
        Args:
            engine: runs the pooling model.
            template: of pairs, in place of the tokenizer's way to join two texts.
            max_documents: SCORE_MAX_DOCUMENTS.
        """
        self._engine = engine
        self._fields = FieldReader(engine.facts.scoring_fields)
        self._max_documents = max_documents
        self._given: PairScoring | None = None
        self._refusal = ""
        try:
            self._given = engine.pair_scoring(template)
        except UnsupportedError as error:
            self._refusal = str(error)

    @property
    def _scoring(self) -> PairScoring:
        if self._given is None:
            raise UnsupportedError(f"queries, documents: {self._refusal}")
        return self._given

    @property
    def field_names(self) -> list[str]:
        """Request parameters that say how pairs are scored."""
        return self._fields.names

    def check(self, call: InferenceCall, pairs: TextPairs) -> None:
        """Refuse what cannot be scored.

        Raises:
            UnsupportedError: the model scores no pairs.
            InvalidRequestError: too many documents, or a parameter that has no effect on pairs.
        """
        scoring = self._scoring
        number = len(pairs.documents)
        if number > self._max_documents:
            raise invalid(
                DOCUMENTS,
                f"{number} elements",
                f"at most {self._max_documents} elements (SCORE_MAX_DOCUMENTS of this model)",
            )
        given = call.control.model_fields_set
        unfit = [name for name in call.sampling if name not in self._fields.names] + sorted(given & _FOR_PROMPTS)
        if unfit:
            raise InvalidRequestError(
                f"{unfit[0]}: has no effect on queries and documents; accepted are {listing(self._fields.names)}"
            )
        unused = [name for name in _FOR_TEMPLATES if name in call.sampling or name in given]
        if unused and not scoring.templated:
            raise InvalidRequestError(
                f"{unused[0]}: requires a score template (CHAT_TEMPLATE), which this model does not have"
            )

    async def render(self, call: InferenceCall, pairs: TextPairs) -> RenderedPairs:
        """The prompts of all pairs.

        Raises:
            InvalidRequestError: a parameter, or a pair that makes too long a prompt or none; named by its document.
        """
        options = self._fields.read(call.sampling)
        if call.control.chat_template_kwargs:
            options["chat_template_kwargs"] = call.control.chat_template_kwargs
        account = self._scoring.begin(pairs.queries, pairs.documents, options)
        parts = await self._scoring.parts(account)
        turn = asyncio.Semaphore(_RENDERED_AT_ONCE)
        named = zip(parts, _names(pairs, len(parts)), strict=True)
        return RenderedPairs(account, await gather_all(self._render_part(part, name, turn) for part, name in named))

    async def _render_part(self, part: Any, name: str, turn: asyncio.Semaphore) -> tuple[Mapping[str, Any], Any]:
        try:
            async with turn:
                prompt, params = await self._scoring.render(part)
        except Exception as error:
            known = self._engine.explain(error)
            if not isinstance(known, InvalidRequestError):
                raise
            raise InvalidRequestError(f"{name}: {known}") from error
        if not prompt["prompt_token_ids"]:
            raise InvalidRequestError(f"{name}: expected text, got an empty prompt")
        return prompt, params

    async def output(self, rendered: RenderedPairs, outputs: Sequence[Any]) -> PooledOutput:
        """The scores, from the engine's outputs for ``rendered.prompts`` in their order."""
        tokens = sum(len(prompt["prompt_token_ids"]) for prompt, _ in rendered.prompts)
        scores = await asyncio.to_thread(self._scoring.scores, rendered.account, outputs)
        check_finite(SCORES, scores)
        return PooledOutput(tokens, name=SCORES, data=np.array(scores, dtype=np.float32))


def _names(pairs: TextPairs, parts: int) -> list[str]:
    """What the parts are called in messages: a cross-encoder reads pairs, others queries and documents apart."""
    documents = [f"documents[{index}]" for index in range(len(pairs.documents))]
    if parts == len(documents):
        return [f"{name} with its query" for name in documents]
    queries = [f"queries[{index}]" for index in range(len(pairs.queries))]
    return [*queries, *documents] if parts == len(queries) + len(documents) else [DOCUMENTS] * parts
