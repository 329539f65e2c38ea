"""Give official releases up to r25.09 the metrics interface of vLLM's first engine.

What breaks: these releases import `vllm.engine.metrics`, which went with vLLM's first engine, and the load ends with a
ModuleNotFoundError. With REPORT_CUSTOM_METRICS they also reach for `engine.engine` and `engine.add_logger`. The module
is put back as far as they use it, and a logger that is added gets the figures of today under the old names.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

NAME = "v0_metrics"
BEFORE_VLLM = False

_MODULE = "vllm.engine.metrics"
# Beginnings of their names.
RELEASES = ("official r23.", "official r24.", "official r25.0", "unknown")


@dataclass
class Stats:
    """What one step of the engine adds, under the names that the releases read."""

    num_prompt_tokens_iter: int
    num_generation_tokens_iter: int
    time_to_first_tokens_iter: list[float]
    time_per_output_tokens_iter: list[float]
    time_e2e_requests: list[float]
    num_prompt_tokens_requests: list[int]
    num_generation_tokens_requests: list[int]
    n_requests: list[int]
    # r24.12 compares versions as text, takes 0.32 for older than 0.6.3, and reads this.
    best_of_requests: list[int] = field(default_factory=list)


class StatLoggerBase:
    """What the releases derive their logger from."""

    def __init__(self, local_interval: float, vllm_config: Any = None) -> None:
        self.local_interval = local_interval


def applies(upstream: str, vllm_version: str) -> bool:
    """For the releases that want the module, where vLLM has it no more."""
    return upstream.startswith(RELEASES) and importlib.util.find_spec(_MODULE) is None


def apply() -> None:
    """Put the module in its place, and let engines take a logger after their start."""
    from vllm.config import SupportsMetricsInfo
    from vllm.v1.engine.async_llm import AsyncLLM

    module: Any = ModuleType(_MODULE, "The metrics interface of vLLM's first engine, as far as it is used.")
    module.__spec__ = importlib.util.spec_from_loader(_MODULE, loader=None)
    module.Stats = Stats
    module.StatLoggerBase = StatLoggerBase
    module.SupportsMetricsInfo = SupportsMetricsInfo
    module.build_1_2_5_buckets = _bucket_builder()
    sys.modules[_MODULE] = module
    AsyncLLM.engine = property(lambda engine: engine)
    AsyncLLM.add_logger = _add_logger


def _bucket_builder() -> Any:
    """It has a module of its own after vLLM 0.20.2."""
    try:
        return importlib.import_module("vllm.v1.metrics.buckets").build_1_2_5_buckets
    except ImportError:
        return importlib.import_module("vllm.v1.metrics.loggers").build_1_2_5_buckets


def _add_logger(engine: Any, name: str, logger: Any) -> None:
    """Let ``logger`` see what the engine's own loggers see."""
    if engine.logger_manager is not None:
        engine.logger_manager.stat_loggers.append(_make_relay(engine, logger))


def _make_relay(engine: Any, logger: Any) -> Any:
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase

    class Relay(AggregateStatLoggerBase):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, **more: Any) -> None:
            if iteration_stats is not None:
                logger.log(stats_of(iteration_stats))

        def log_engine_initialized(self) -> None:
            pass

    return Relay(engine.vllm_config, [])


def stats_of(iteration: Any) -> Stats:
    """vLLM's IterationStats under the old names."""
    finished = iteration.finished_requests
    return Stats(
        num_prompt_tokens_iter=iteration.num_prompt_tokens,
        num_generation_tokens_iter=iteration.num_generation_tokens,
        time_to_first_tokens_iter=iteration.time_to_first_tokens_iter,
        time_per_output_tokens_iter=iteration.inter_token_latencies_iter,
        time_e2e_requests=[request.e2e_latency for request in finished],
        num_prompt_tokens_requests=[request.num_prompt_tokens for request in finished],
        num_generation_tokens_requests=[request.num_generation_tokens for request in finished],
        n_requests=iteration.n_params_iter,
    )
