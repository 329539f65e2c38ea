"""Count the deaths of the engine, and the tries to start it again, on Triton's metrics endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from vllm_custom.contract.metrics import ENGINE_DEATHS, ENGINE_METRICS, ENGINE_RESTARTS, ENGINE_UP
from vllm_custom.kernel.metrics import MetricReporter


class EngineEvent(Enum):
    """What becomes of an engine; STARTED and FAILED are ends of a try to start one that has died, ENDED is no death."""

    RUNS = "runs"
    ENDED = "ended"
    DIED = "died"
    STARTED = "succeeded"
    FAILED = "failed"


class EngineEventMetrics:
    """Reports what becomes of the engine of one model."""

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._reporter = MetricReporter(
            pb_utils,
            ENGINE_METRICS,
            labels,
            log_error,
            what="[vllm_custom] metrics of the engine",
            thread="vllm_custom_engine_events",
        )

    def observe(self, event: EngineEvent) -> None:
        """Report it; returns at once."""
        with contextlib.suppress(RuntimeError):  # the model is being unloaded
            self._reporter.submit(self._report, event)

    def close(self) -> None:
        """Report what waits, and end the thread."""
        self._reporter.close()

    def _report(self, event: EngineEvent) -> None:
        if event is EngineEvent.DIED:
            self._reporter.metric(ENGINE_DEATHS).increment(1)
        if event in (EngineEvent.STARTED, EngineEvent.FAILED):
            self._reporter.metric(ENGINE_RESTARTS, result=event.value).increment(1)
        self._reporter.metric(ENGINE_UP).set(int(event in (EngineEvent.RUNS, EngineEvent.STARTED)))
