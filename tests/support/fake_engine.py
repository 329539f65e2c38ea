"""An engine without a model, in milliseconds, for tests of all that is in front of one.

It answers the protocol of :mod:`vllm_custom.engine`. What it promises is what
`tests/support/engine_contract.py` asks of it and of the real engine alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from tests.support.fake_answers import FakeParsers
from vllm_custom.engine import Adapter, ModelFacts, PairScoring, RunOptions
from vllm_custom.engine.background import NO_STORAGE, Storage
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.engine.following import observed, staged
from vllm_custom.engine.protocol import (
    Accept,
    AdaptersInUse,
    Application,
    CheckPrompt,
    RefusedConstraintError,
    Verdict,
)
from vllm_custom.engine.statistics import Statistics
from vllm_custom.engine.vision import VisionRules
from vllm_custom.errors import (
    BackendError,
    EngineDiedError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedError,
)

FIELDS: dict[str, Any] = {
    "n": int,
    "max_tokens": int | None,
    "min_tokens": int,
    "temperature": float,
    "top_p": float,
    "seed": int | None,
    "logprobs": int | None,
    "ignore_eos": bool,
    "stop": str | list[str] | None,
    "bad_words": list[str] | None,
    "logit_bias": dict[int, float] | None,
    "allowed_token_ids": list[int] | None,
}
FACTS = ModelFacts(
    media_limits={"image": 4, "video": 2, "audio": 2},
    sampling_fields=FIELDS,
    pooling_fields={"task": str, "dimensions": int},
    has_chat_template=True,
)
# A model that takes no media starts no process to decode them, which takes half a second.
TEXT_ONLY = replace(FACTS, media_limits={})


class EngineError(Exception):
    """What the engine raises for a client's fault."""


class DeadError(Exception):
    """What the engine raises after its death."""


@dataclass
class Params:
    """SamplingParams or PoolingParams."""

    values: Mapping[str, Any]
    stream: bool = False
    pooling: bool = False

    @property
    def n(self) -> int:
        return int(self.values.get("n", 1))

    @property
    def output_kind(self) -> Any:
        """Whether outputs are what is new, or all so far."""
        return SimpleNamespace(name="DELTA" if self.stream else "FINAL_ONLY")

    @property
    def max_tokens(self) -> int:
        return int(self.values.get("max_tokens") or 16)

    @property
    def prompt_logprobs(self) -> int | None:
        return self.values.get("prompt_logprobs")


@dataclass
class Completion:
    """vLLM's CompletionOutput, in the fields that are read."""

    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    cumulative_logprob: float | None = None
    logprobs: Any = None
    stop_reason: int | str | None = None


@dataclass
class Output:
    """vLLM's RequestOutput, in the fields that are read."""

    prompt_token_ids: Sequence[int]
    outputs: Any
    finished: bool
    prompt_logprobs: Any = None


@dataclass
class FakeEngine:
    """Gives the words of the prompt back, one per token and event loop turn.

    Attributes:
        facts: of the model.
        before_token: called before each token of a request, with its number; may wait, raise, or cancel.
        before_render: the same before a prompt is rendered.
        running: requests that the engine works on.
        aborted: requests whose generator was closed before its end.
        adapters: what is loaded.
        adapter_error: raised when an adapter is to be loaded.
        died: whether it has ended.
        still: whether no step comes to its end.
    """

    facts: ModelFacts = FACTS
    before_token: Callable[[int], Any] | None = None
    before_render: Callable[[], Any] | None = None
    layout: EmbedsLayout | None = None
    vision: VisionRules | None = None
    spell: Callable[[str, int], str | None] = lambda modality, number: f"<{modality}>"
    running: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=list)
    adapter_error: Exception | None = None
    application: Application | None = None
    died: bool = False
    still: bool = False
    counted: Statistics | None = None

    @property
    def is_dead(self) -> bool:
        return self.died

    def die(self) -> None:
        """End like an engine process that was killed: what runs fails, and all that comes."""
        self.died = True

    def come_back(self) -> None:
        """Another engine is in its place, which has no adapters."""
        self.adapters.clear()
        self.died = self.still = False

    @property
    def statistics(self) -> Statistics | None:
        return self.counted

    def release(self) -> None:
        """Nothing is held."""

    async def check_health(self) -> None:
        if self.died:
            raise UnavailableError("the vLLM engine has died")

    async def step(self) -> None:
        while self.still and not self.died:  # noqa: ASYNC110  # an engine tells nobody
            await asyncio.sleep(0.001)

    def end(self) -> None:
        self.die()

    async def run(self, prompt: Mapping[str, Any], params: Params, options: RunOptions) -> AsyncGenerator[Any, None]:
        assert options.request_id not in self.running
        self.running.add(options.request_id)
        finished = False
        try:
            async for output in self._outputs(prompt, params):
                finished = output.finished
                yield output
        finally:
            self.running.discard(options.request_id)
            if not finished:
                self.aborted.append(options.request_id)

    async def _outputs(self, prompt: Mapping[str, Any], params: Params) -> AsyncGenerator[Output, None]:
        ids = list(prompt["prompt_token_ids"])
        words = str(prompt.get("prompt") or "nothing").split() or ["nothing"]
        count = 1 if params.pooling else params.max_tokens
        text = ""
        for number in range(count):
            await call(self.before_token, number)
            await asyncio.sleep(0)
            if self.died:
                raise DeadError
            last = number == count - 1
            piece = f" {words[number % len(words)]}"
            text += piece
            if params.stream or last:
                shown, tokens = (piece, [number]) if params.stream else (text, list(range(count)))
                reason = "length" if last else None
                yield Output(ids, [Completion(index, shown, tokens, reason) for index in range(params.n)], last)

    def has_failed(self, output: Any) -> bool:
        return any(completion.finish_reason == "error" for completion in output.outputs)

    def explain(self, error: BaseException) -> BackendError | None:
        if isinstance(error, DeadError):
            return EngineDiedError("the vLLM engine has died; the model has to be loaded again")
        return InvalidRequestError(str(error)) if isinstance(error, (EngineError, ValueError)) else None

    async def render_text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        await call(self.before_render)
        text = prompt.get("prompt")
        embeds = prompt.get("prompt_embeds")
        length = len(str(text).split()) if embeds is None else len(embeds)
        ids = prompt.get("prompt_token_ids") or list(range(length or 1))
        return {**prompt, "prompt_token_ids": ids}

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None = None,
    ) -> Mapping[str, Any]:
        return await self.render_text({"prompt": " ".join(_texts(messages)), "cache_salt": cache_salt})

    def placeholder(self, modality: str, number: int) -> str | None:
        return self.spell(modality, number)

    def embeds_layout(self) -> EmbedsLayout | None:
        return self.layout

    def vision_rules(self) -> VisionRules | None:
        return self.vision

    def embeds_tensor(self, array: npt.NDArray[Any]) -> Any:
        return array

    def prompt_tensor(self, array: npt.NDArray[Any]) -> Any:
        return array

    def join_embeds(self, images: Sequence[Mapping[str, Any]]) -> Any:
        return list(images)

    def sampling_params(self, values: Mapping[str, Any], *, stream: bool) -> Params:
        if not 0 <= values.get("temperature", 1.0) <= 100 or not 0 < values.get("top_p", 1.0) <= 1:
            raise InvalidRequestError("temperature or top_p: out of range")
        max_tokens = values.get("max_tokens")
        if values.get("n", 1) < 1 or (max_tokens is not None and max_tokens < 1):
            raise InvalidRequestError("n and max_tokens: expected at least 1")
        return Params(values, stream=stream)

    def pooling_params(self, values: Mapping[str, Any]) -> Params:
        return Params(values, pooling=True)

    def structured_outputs(self, values: Mapping[str, Any]) -> Any:
        return dict(values)

    @property
    def structured_output_options(self) -> Sequence[str]:
        return ("json", "regex", "choice", "grammar", "json_object", "structural_tag", "whitespace_pattern")

    def constraint_checker(self, seconds: float, log_error: Callable[[str], None]) -> FakeChecker:
        return FakeChecker()

    def guard_constraints(self, accept: Accept) -> None:
        """Nobody but the handlers calls this engine."""

    def guard_prompts(self, check: CheckPrompt) -> None:
        """Nobody but the handlers calls this engine."""

    def observe_requests(self) -> None:
        self.run = observed(self.run, traces=False)  # type: ignore[method-assign]
        self.render_text = staged(self.render_text)  # type: ignore[method-assign]

    async def load_adapter(self, adapter: Adapter) -> None:
        if self.adapter_error is not None:
            raise self.adapter_error
        self.adapters.append(adapter)

    async def remove_adapter(self, number: int) -> None:
        self.adapters = [adapter for adapter in self.adapters if adapter.number != number]

    def pair_scoring(self, template: str | None) -> PairScoring:
        raise UnsupportedError("this model scores no pairs")

    def answer_parsers(self, arguments: Mapping[str, Any]) -> FakeParsers:
        return FakeParsers()

    async def openai_application(
        self,
        served_names: Sequence[str],
        arguments: Mapping[str, Any],
        adapters: AdaptersInUse,
        storage: Storage = NO_STORAGE,
    ) -> Application:
        return self.application or _no_routes


class FakeChecker:
    """Compiles nothing, and refuses one expression that is wrong."""

    async def start(self) -> None:
        """Nothing has to be started."""

    async def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        if kind == "regex" and value == "(":
            raise RefusedConstraintError("missing ), unterminated subpattern")
        return Verdict("fake", automatic=False, as_grammar=False)

    def close(self) -> None:
        """Nothing has to be ended."""


async def call(function: Callable[..., Any] | None, *arguments: Any) -> None:
    """Call a hook, and wait for it where it is a coroutine."""
    if function is not None:
        waiting = function(*arguments)
        if waiting is not None:
            await waiting


async def _no_routes(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"detail":"Not Found"}'})


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part if isinstance(part, str) else str(part.get("text", "")) for part in parts]
    return texts
