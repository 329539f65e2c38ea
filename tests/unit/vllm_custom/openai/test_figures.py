"""Headers that say what a request took."""

from __future__ import annotations

from typing import Any

from vllm_custom.engine.figures import NOTED, Figures
from vllm_custom.openai.figures import headers_of, with_figures

TIMING = b"queue;dur=500.000, prefill;dur=2000.000, first_token;dur=2750.000, last_token;dur=5750.000"
FIGURES = Figures(0.5, 2.0, 2.75, 5.75, 16, 2.5, 0.75)


async def answered(*figures: Figures) -> list[dict[str, Any]]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        noted = NOTED.get()
        assert noted is not None
        noted += figures
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"{}"})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {}

    await with_figures(application)({}, receive, send)
    assert NOTED.get() is None
    return sent


async def test_an_answer_has_them_behind_its_own_headers() -> None:
    start, body = await answered(FIGURES)
    assert body == {"type": "http.response.body", "body": b"{}"}
    assert start["headers"] == [
        (b"a", b"b"),
        (b"server-timing", TIMING),
        (b"x-cached-tokens", b"16"),
        (b"x-mean-acceptance-length", b"2.5"),
        (b"x-draft-acceptance-rate", b"0.75"),
    ]


async def test_an_answer_that_no_engine_gave_has_none() -> None:
    start, _ = await answered()
    assert start["headers"] == [(b"a", b"b")]


def test_of_several_prompts_only_cached_tokens_add_up() -> None:
    assert headers_of([FIGURES, Figures(cached_tokens=8), Figures()]) == {"x-cached-tokens": "24"}
    assert headers_of([Figures()]) == {}
