"""An endpoint: one model on one Triton server."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_custom_frontend.answer import Answer
from vllm_custom_frontend.capacity import Capacity
from vllm_custom_frontend.health import Health
from vllm_custom_frontend.triton import (
    BrokenError,
    InferCall,
    LateError,
    ResponseChunk,
    ServedModel,
    TritonClient,
    TritonError,
    UnreachableError,
)

_log = logging.getLogger("vllm_custom_frontend")
_MODELS_PATH = "/v1/models"
_FIRST_ERROR = 400
_FIRST_DEFECT = 500
_NOT_IMPLEMENTED = 501
_TIMED_OUT = 504

Card = Mapping[str, Any]


@dataclass
class Endpoint:
    """A model on one server, what it lists, and how it is.

    Attributes:
        cards: OpenAI's cards of the model and its adapters, those of the last probe that was answered.
    """

    triton: TritonClient
    model: ServedModel
    health: Health = field(default_factory=Health)
    capacity: Capacity = field(default_factory=Capacity)
    cards: Sequence[Card] = ()
    _heard_at: float = float("-inf")

    def __str__(self) -> str:
        return f"{self.model.name} on {self.triton.address}"

    async def call(self, call: InferCall, seconds: float | None = None) -> AsyncGenerator[ResponseChunk, None]:
        """As :meth:`TritonClient.call`; every chunk is a sign of life."""
        async with contextlib.aclosing(self.triton.call(call, seconds)) as chunks:
            async for chunk in chunks:
                self._heard_at = time.monotonic()
                yield chunk

    def note_answer(self, answer: Answer) -> None:
        """Learn from the answer to a request; of one that has only begun, the body is empty.

        What the client did wrong says nothing of the engine, and neither does a time limit.
        """
        if answer.engine_down:
            self.health.lost()
        elif answer.busy:
            self.health.busy()
            self.capacity.note(answer)
        elif answer.status < _FIRST_ERROR:
            self.health.succeeded()
        elif answer.status >= _FIRST_DEFECT and answer.status not in (_NOT_IMPLEMENTED, _TIMED_OUT):
            self.health.failed()

    def note_silence(self, since: float) -> None:
        """Nothing came within a time that should have been enough, unless other requests were answered meanwhile."""
        if self._heard_at < since:
            self.health.failed(hung=True)

    async def probe(self, seconds: float) -> None:
        """Ask for the model's list of models, by a request like all others, so that it says whether the model works."""
        began = time.monotonic()
        call = InferCall(self.model, _MODELS_PATH, "GET")
        try:
            chunks = [chunk async for chunk in self.call(call, seconds)]
            if not chunks:
                raise TritonError("the model sent no response")
        except LateError:
            _log.warning("%s: did not list its models within %g s", self, seconds)
            self.note_silence(began)
        except (UnreachableError, BrokenError) as error:
            _log.warning("%s: %s", self, error)
            self.health.lost()
        except TritonError as error:
            _log.warning("%s: cannot list its models: %s", self, error)
            self.health.failed(broken=True)
        else:
            self._note_probe(Answer(chunks[0].status, chunks[0].headers, b"".join(chunk.body for chunk in chunks)))

    def _note_probe(self, answer: Answer) -> None:
        if answer.busy:
            self.health.probed()
            return
        if answer.engine_down:
            if not self.health.broken:
                _log.warning("%s: its engine does not run", self)
            self.health.lost()
            return
        if answer.status >= _FIRST_DEFECT:
            _log.warning("%s: status %d instead of a list of its models", self, answer.status)
            self.health.failed(broken=True)
            return
        self.health.probed()
        try:
            cards = json.loads(answer.body)["data"]
            self.cards = [card for card in cards if isinstance(card["id"], str)]
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s: invalid list of models: %r", self, error)
