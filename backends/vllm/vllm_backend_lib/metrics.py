"""vLLM's statistics as Triton metrics, under the official names."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import triton_python_backend_utils as pb_utils
from vllm.v1.metrics.loggers import StatLoggerBase

from vllm_backend_lib.interfaces import Logger

_TIME_TO_FIRST_TOKEN = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_TIME_PER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
_E2E_LATENCY = [1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0]
_SEQUENCES = [1.0, 2.0, 5.0, 10.0, 20.0]


class Family(NamedTuple):
    """A metric family: histograms have bucket boundaries, counters have none."""

    name: str
    description: str
    buckets: list[float] | None = None


def families(max_model_len: int) -> tuple[Family, ...]:
    """The official families; those that count tokens reach up to the model's context length."""
    tokens = one_two_five_buckets(max_model_len)
    return (
        Family("vllm:prompt_tokens_total", "Prompt tokens processed."),
        Family("vllm:generation_tokens_total", "Tokens generated."),
        Family("vllm:time_to_first_token_seconds", "Time to the first token, in seconds.", _TIME_TO_FIRST_TOKEN),
        Family("vllm:time_per_output_token_seconds", "Time between output tokens, in seconds.", _TIME_PER_TOKEN),
        Family("vllm:e2e_request_latency_seconds", "End-to-end latency of requests, in seconds.", _E2E_LATENCY),
        Family("vllm:request_prompt_tokens", "Prompt tokens per request.", tokens),
        Family("vllm:request_generation_tokens", "Generated tokens per request.", tokens),
        Family("vllm:request_params_n", "The parameter n per request.", _SEQUENCES),
    )


def one_two_five_buckets(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`."""
    steps = (mantissa * 10**exponent for exponent in range(len(str(limit))) for mantissa in (1, 2, 5))
    return [float(step) for step in steps if step <= limit]


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


class StatLoggerFactory:
    """What vLLM calls once per engine core to get a stat logger; `finalize` ends all that it made."""

    def __init__(self, labels: dict[str, str], logger: Logger) -> None:
        self._labels = labels
        self._logger = logger
        self._made: list[StatLogger] = []

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> StatLogger:
        made = StatLogger(self._labels, vllm_config, engine_index, self._logger)
        self._made.append(made)
        return made

    def finalize(self) -> None:
        """Reports what is left and ends the threads."""
        while self._made:
            self._made.pop().finalize()


class StatLogger(StatLoggerBase):  # type: ignore[misc]
    """Passes vLLM's statistics on to Triton, on a thread of its own: each report is a call to the server process."""

    def __init__(self, labels: dict[str, str], vllm_config: Any, engine_index: int, logger: Logger) -> None:
        self._logger = logger
        self._families: list[Any] = []  # a metric dies with its family
        self._metrics: dict[str, tuple[Any, bool]] = {}
        for family in families(vllm_config.model_config.max_model_len):
            self._metrics[family.name] = (self._register(family, labels), family.buckets is None)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vllm-metrics", daemon=True)
        self._thread.start()

    def _register(self, family: Family, labels: dict[str, str]) -> Any:
        if family.buckets is None:
            registered = pb_utils.MetricFamily(
                name=family.name, description=family.description, kind=pb_utils.MetricFamily.COUNTER
            )
            metric = registered.Metric(labels=labels)
        else:
            registered = pb_utils.MetricFamily(
                name=family.name, description=family.description, kind=pb_utils.MetricFamily.HISTOGRAM
            )
            metric = registered.Metric(labels=labels, buckets=family.buckets)
        self._families.append(registered)
        return metric

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM after each step; further arguments differ between releases."""
        if iteration_stats is not None:
            self._queue.put(observations(iteration_stats))

    def log_engine_initialized(self) -> None:
        """Nothing to report."""

    def finalize(self) -> None:
        """Reports what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (values := self._queue.get()) is not None:
            try:
                self._report(values)
            except Exception as error:  # noqa: BLE001, PERF203 - the next report may succeed
                self._logger.log_error(f"[vllm] cannot report metrics: {error}")

    def _report(self, values: dict[str, Iterable[float]]) -> None:
        for name, data in values.items():
            metric, is_counter = self._metrics[name]
            for value in data:
                if not is_counter:
                    metric.observe(value)
                elif value:
                    metric.increment(value)
