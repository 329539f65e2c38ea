"""What a request took, as vLLM's last output of it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.figures import NOTED, Figures, figures_of
from vllm_custom.engine.vllm.requests import note_figures

TIMES = SimpleNamespace(
    queued_ts=10.0, scheduled_ts=10.5, first_token_ts=12.5, last_token_ts=15.5, first_token_latency=2.75
)
DRAFTS = SimpleNamespace(to_dict=lambda: {"mean_acceptance_length": 2.5, "draft_acceptance_rate": 0.75, "more": 1})


def output(metrics: Any = TIMES, drafts: Any = None, *, finished: bool = True) -> Any:
    completion = SimpleNamespace(spec_decode_metrics=drafts)
    return SimpleNamespace(metrics=metrics, outputs=[completion], num_cached_tokens=16, finished=finished)


def test_times_count_from_the_requests_arrival() -> None:
    assert figures_of(output(drafts=DRAFTS), 1) == Figures(0.5, 2.0, 2.75, 5.75, 16, 2.5, 0.75)


def test_of_several_sequences_only_the_prompt_says_something() -> None:
    assert figures_of(output(), 2).known() == {"cached_tokens": 16}


def test_what_the_engine_does_not_say_is_left_out() -> None:
    assert figures_of(output(metrics=None), 1).known() == {"cached_tokens": 16}
    assert figures_of(SimpleNamespace(outputs=[]), 1).known() == {}, "an older vLLM"
    nothing = SimpleNamespace(**dict.fromkeys(vars(TIMES), 0.0))
    assert figures_of(output(metrics=nothing), 1).known() == {"cached_tokens": 16}, "it ended before it began"


async def test_only_who_asks_is_told() -> None:
    async def generate(*_: Any, **__: Any) -> Any:
        yield output(finished=False)
        yield output()

    llm = SimpleNamespace(generate=generate)
    note_figures(llm)
    params = SimpleNamespace(n=1)
    assert len([each async for each in llm.generate("prompt", params)]) == 2
    noted: list[Figures] = []
    token = NOTED.set(noted)
    try:
        assert len([each async for each in llm.generate("prompt", params)]) == 2
    finally:
        NOTED.reset(token)
    (figures,) = noted
    assert figures.first_token_seconds == pytest.approx(2.75)
