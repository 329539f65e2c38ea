"""What becomes of one prompt in the engine, noted in the record of its request."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from vllm_custom.engine.figures import figures_of
from vllm_custom.observability import RequestRecord, Span, begin_stage, stage
from vllm_custom.observability.requests import RECORD

_CANCELLED = "CANCELLED"


class Following:
    """One prompt in the engine."""

    def __init__(self, record: RequestRecord, span: Span | None, params: Any) -> None:
        """``params``: SamplingParams or PoolingParams."""
        self._record = record
        self._span = span
        self._sequences = getattr(params, "n", 1)
        self._adds = getattr(getattr(params, "output_kind", None), "name", "") == "DELTA"
        self._tokens: dict[int, int] = {}
        self._ended = False

    def note(self, output: Any) -> None:
        """Count what has come; the last output has the figures as well."""
        for done in output.outputs if isinstance(output.outputs, list) else ():
            before = self._tokens.get(done.index, 0) if self._adds else 0
            self._tokens[done.index] = before + len(done.token_ids)
        if output.finished and not self._ended:
            prompt, output_tokens = len(output.prompt_token_ids or ()), sum(self._tokens.values())
            figures = figures_of(output, self._sequences).known() if self._tokens else {}
            self._record.prompt_tokens += prompt
            self._record.output_tokens += output_tokens
            self._record.figures.append(figures)
            self.end("", {"prompt_tokens": prompt, "output_tokens": output_tokens, **figures})

    def end(self, error: str, known: dict[str, Any] | None = None) -> None:
        """The engine has done with it; only the first end counts."""
        if self._ended:
            return
        self._ended = True
        if not known:
            self._record.output_tokens += sum(self._tokens.values())
        if self._span is not None:
            self._span.set({f"vllm_custom.{name}": value for name, value in (known or {}).items()})
            self._span.end(error)


async def _followed(outputs: AsyncGenerator[Any, None], following: Following) -> AsyncGenerator[Any, None]:
    """``outputs`` of the engine, noted as they pass."""
    try:
        async with aclosing(outputs):
            async for output in outputs:
                following.note(output)
                yield output
    except Exception as error:
        following.end(type(error).__name__)
        raise
    finally:
        following.end(_CANCELLED)


def staged(render: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``render``, with a span for a request that has one."""

    @functools.wraps(render)
    async def staged(*args: Any, **kwargs: Any) -> Any:
        with stage("render"):
            return await render(*args, **kwargs)

    return staged


def observed(begin: Callable[..., AsyncGenerator[Any, None]], *, traces: bool) -> Callable[..., Any]:
    """``begin``, which gets a prompt, its parameters and more, noted in the record of the request of its context.

    Args:
        begin: starts the engine on a prompt.
        traces: whether the engine has spans of its own, which are to hang from ours (``trace_headers``).
    """

    def begun(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        record = RECORD.get()
        if record is None:
            return begin(*args, **kwargs)
        span = begin_stage("engine")
        if span is not None and traces:
            kwargs["trace_headers"] = span.headers
        # vLLM's application names them where it pools.
        params = args[1] if len(args) > 1 else kwargs.get("pooling_params", kwargs.get("sampling_params"))
        return _followed(begin(*args, **kwargs), Following(record, span, params))

    return begun
