"""The official metric families, and what vLLM's statistics add to each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_backend_lib.kernel import metrics

_TIME_TO_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TIME_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_E2E_LATENCY = (1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)
_SEQUENCES = (1.0, 2.0, 5.0, 10.0, 20.0)


def families(max_model_len: int) -> tuple[metrics.Family, ...]:
    """The official families; those that count tokens reach up to the model's context length."""
    tokens = one_two_five_buckets(max_model_len)
    return (
        _counter("vllm:prompt_tokens_total", "Prompt tokens processed."),
        _counter("vllm:generation_tokens_total", "Tokens generated."),
        _histogram("vllm:time_to_first_token_seconds", "Time to the first token, in seconds.", _TIME_TO_FIRST_TOKEN),
        _histogram("vllm:time_per_output_token_seconds", "Time between output tokens, in seconds.", _TIME_PER_TOKEN),
        _histogram("vllm:e2e_request_latency_seconds", "End-to-end latency of requests, in seconds.", _E2E_LATENCY),
        _histogram("vllm:request_prompt_tokens", "Prompt tokens per request.", tokens),
        _histogram("vllm:request_generation_tokens", "Generated tokens per request.", tokens),
        _histogram("vllm:request_params_n", "The parameter n per request.", _SEQUENCES),
    )


def one_two_five_buckets(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`."""
    steps = (mantissa * 10**exponent for exponent in range(len(str(limit))) for mantissa in (1, 2, 5))
    return tuple(float(step) for step in steps if step <= limit)


def observations(stats: Any) -> dict[str, Iterable[float]]:
    """What one `IterationStats` adds to each family."""
    finished = stats.finished_requests
    return {
        "vllm:prompt_tokens_total": [stats.num_prompt_tokens],
        "vllm:generation_tokens_total": [stats.num_generation_tokens],
        "vllm:time_to_first_token_seconds": stats.time_to_first_tokens_iter,
        "vllm:time_per_output_token_seconds": stats.inter_token_latencies_iter,
        "vllm:e2e_request_latency_seconds": [request.e2e_latency for request in finished],
        "vllm:request_prompt_tokens": [request.num_prompt_tokens for request in finished],
        "vllm:request_generation_tokens": [request.num_generation_tokens for request in finished],
        "vllm:request_params_n": stats.n_params_iter,
    }


def _counter(name: str, description: str) -> metrics.Family:
    return metrics.Family(name, "COUNTER", description)


def _histogram(name: str, description: str, buckets: tuple[float, ...]) -> metrics.Family:
    return metrics.Family(name, "HISTOGRAM", description, buckets)
