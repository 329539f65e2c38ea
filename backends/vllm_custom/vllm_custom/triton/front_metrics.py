"""Count the fronts of a shared engine on Triton's metrics endpoint. The host of the engine has one of them do so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from vllm_custom.contract.metrics import FRONT_METRICS, FRONTS, FRONTS_LOST, FRONTS_REPLACED
from vllm_custom.engine.host import Fronts
from vllm_custom.kernel.metrics import MetricReporter


class FrontMetrics:
    """Reports what the host tells this front."""

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._reporter = MetricReporter(
            pb_utils,
            FRONT_METRICS,
            labels,
            log_error,
            what="[vllm_custom] metrics of fronts",
            thread="vllm_custom_front_metrics",
        )

    def observe(self, news: Fronts) -> None:
        """Report it; returns at once."""
        with contextlib.suppress(RuntimeError):  # the model is being unloaded
            self._reporter.submit(self._report, news)

    def close(self) -> None:
        """Report what waits, and end the thread."""
        self._reporter.close()

    def _report(self, news: Fronts) -> None:
        self._reporter.metric(FRONTS).set(news.attached)
        for family, count in ((FRONTS_LOST, news.lost), (FRONTS_REPLACED, news.replaced)):
            self._reporter.metric(family).increment(count)
