"""What would end the engine is refused before it is sent there."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.vllm.engine_limits import guard_engine
from vllm_custom.kernel import engine_errors

pytestmark = pytest.mark.usefixtures("vllm")
CONTEXT = 4096


def _llm(*, second_runner: bool = True) -> Any:
    """An AsyncLLM as far as it makes requests; words have ten tokens each."""

    def process_inputs(request_id: str, params: Any, priority: int = 0) -> Any:
        if params is not None and params.bad_words:
            params._bad_words_token_ids = [[7] * 10 for _ in params.bad_words]
        return SimpleNamespace(request_id=request_id, sampling_params=params, priority=priority)

    async def process_inputs_async(*args: Any, **kwargs: Any) -> Any:
        return process_inputs(*args, **kwargs)

    return SimpleNamespace(
        input_processor=SimpleNamespace(process_inputs=process_inputs, process_inputs_async=process_inputs_async),
        model_config=SimpleNamespace(max_model_len=CONTEXT),
        vllm_config=SimpleNamespace(use_v2_model_runner=second_runner),
    )


def _params(**values: Any) -> Any:
    from vllm.sampling_params import SamplingParams

    return SamplingParams(**values)


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "allowed_token_ids": ({"allowed_token_ids": list(range(1025))}, "at most 1024 token ids .* got 1025"),
    "logit_bias": ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "at most 1024 entries .* got 1025"),
    "stop_token_ids": (
        {"stop_token_ids": list(range(129)), "min_tokens": 1},
        "at most 128 token ids with min_tokens, .* got 129",
    ),
    "bad_words": ({"bad_words": [f"w{number}" for number in range(103)]}, "at most 1024 tokens .* got 1030"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_the_second_model_runner_cannot_hold_does_not_reach_it(name: str) -> None:
    """Its error ended the engine for everybody: 1,025 allowed_token_ids were enough, with the default limits."""
    values, said = TOO_MUCH[name]
    llm = _llm()
    guard_engine(llm)
    with pytest.raises(Exception, match=said) as raised:
        llm.input_processor.process_inputs("id", _params(**values))
    explained: Any = engine_errors.explain(raised.value)
    assert (explained.triton_code, explained.param) == ("INVALID_ARG", name)


async def test_prompts_that_are_read_beside_the_event_loop_are_judged_as_well() -> None:
    llm = _llm()
    guard_engine(llm)
    params = _params(**TOO_MUCH["allowed_token_ids"][0])
    with pytest.raises(Exception, match="allowed_token_ids: expected at most"):
        await llm.input_processor.process_inputs_async("id", params)
    assert (await llm.input_processor.process_inputs_async("id", _params())).request_id == "id"


def test_what_fits_passes_and_the_first_model_runner_takes_more() -> None:
    llm = _llm()
    guard_engine(llm)
    fitting = _params(
        allowed_token_ids=list(range(1024)),
        logit_bias=dict.fromkeys(range(1024), 1.0),
        stop_token_ids=list(range(3000)),  # without min_tokens the runner never sees them
        bad_words=[f"w{number}" for number in range(102)],
    )
    assert llm.input_processor.process_inputs("id", fitting).sampling_params is fitting
    first = _llm(second_runner=False)
    guard_engine(first)
    for values, _ in TOO_MUCH.values():
        params = _params(**values)
        assert first.input_processor.process_inputs("id", params).sampling_params is params


def test_the_limits_are_those_of_vllms_own_arrays() -> None:
    """One more than is let through is what its runner raises for."""
    from vllm.v1.worker.gpu.sample.logit_bias import LogitBiasState

    array: Any = SimpleNamespace(np=[0])
    state: Any = SimpleNamespace(prompt_len_np=[1], num_allowed_token_ids=array, num_logit_bias=array, min_lens=array)
    for name in ("allowed_token_ids", "logit_bias", "stop_token_ids"):
        with pytest.raises(ValueError, match="Too many"):
            LogitBiasState.add_request(state, 0, _params(**TOO_MUCH[name][0]))


@pytest.mark.parametrize("second_runner", [True, False])
def test_tokens_beyond_the_context_are_not_counted(*, second_runner: bool) -> None:
    """The length of a sequence is counted with 32 bits: 3,000,000,000 max_tokens ended the engine."""
    llm = _llm(second_runner=second_runner)
    guard_engine(llm)
    params = _params(max_tokens=2**63 - 1, min_tokens=2**62)
    made = llm.input_processor.process_inputs("id", params).sampling_params
    assert (made.max_tokens, made.min_tokens) == (CONTEXT, CONTEXT)
    usual = llm.input_processor.process_inputs("id", _params(max_tokens=5)).sampling_params
    assert (usual.max_tokens, usual.min_tokens) == (5, 0)
    assert llm.input_processor.process_inputs("id", _params(max_tokens=None)).sampling_params.max_tokens is None


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_number_that_cannot_be_sent_is_refused_before_the_request_is_noted(number: int) -> None:
    """vLLM had noted the request by then, with its prompt, and kept it for ever: nobody struck it off."""
    llm = _llm(second_runner=False)
    guard_engine(llm)
    if number > 0:
        with pytest.raises(Exception, match="top_k: expected a 64-bit integer"):
            llm.input_processor.process_inputs("id", _params(top_k=number))
    with pytest.raises(Exception, match="priority: expected a 64-bit integer"):
        llm.input_processor.process_inputs("id", None, priority=number)


def test_requests_of_pooling_models_and_older_versions_stay_as_they_are() -> None:
    llm = _llm()
    before = inspect.signature(llm.input_processor.process_inputs)
    guard_engine(llm)
    assert inspect.signature(llm.input_processor.process_inputs) == before
    assert llm.input_processor.process_inputs("id", None).sampling_params is None
    guard_engine(SimpleNamespace())
