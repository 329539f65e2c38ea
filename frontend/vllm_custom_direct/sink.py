"""Where models' log lines and metrics go without Triton: Python's log, and the files of prometheus_client.

Names are those of Triton's module for Python models, as the backend's code uses them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from vllm_custom_frontend.logs import FIELDS

_log = logging.getLogger("vllm_custom")
# vLLM's families that its scheduler feeds, which tells nothing of itself to fronts.
_SCHEDULERS = re.compile(
    r"vllm:((external_)?prefix_cache|prompt_tokens_cached|estimated_|corrupted_requests|watermark_requests)"
)
# prometheus_client's own ends of a histogram's buckets.
_LAST = float("inf")


class Logger:
    """``pb_utils.Logger``."""

    log_verbose = staticmethod(_log.debug)
    log_info = staticmethod(_log.info)
    log_warn = staticmethod(_log.warning)
    log_error = staticmethod(_log.error)


class RequestLogger(Logger):
    """With a line for each request, as the log's form is JSON."""

    @staticmethod
    def log_request(fields: str) -> None:
        """``fields``: a JSON object."""
        _log.info("request", extra={FIELDS: {"event": "request", **json.loads(fields)}})


class _Metric:
    """``pb_utils.Metric``: a child of a collector."""

    def __init__(self, child: Any) -> None:
        self._child = child

    def increment(self, value: float) -> None:
        self._child.inc(value)

    def set(self, value: float) -> None:
        self._child.set(value)

    def observe(self, value: float) -> None:
        self._child.observe(value)


class MetricFamily:
    """``pb_utils.MetricFamily``. Values are in files, so that two models of a process need no common registry."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._name = name
        self._description = description
        self._kind = kind
        self._collector: Any = None

    def Metric(self, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> _Metric:  # noqa: N802
        """The metric with these labels."""
        if self._collector is None:
            self._collector = self._made(tuple(labels), buckets)
        return _Metric(self._collector.labels(**labels))

    def _made(self, names: tuple[str, ...], buckets: Sequence[float]) -> Any:
        common = (self._name, self._description, names)
        if self._kind == self.COUNTER:
            return Counter(*common, registry=None)
        if self._kind == self.GAUGE:
            return Gauge(*common, registry=None, multiprocess_mode="mostrecent")
        return Histogram(*common, registry=None, buckets=(*buckets, _LAST))


def is_schedulers(family: Any) -> bool:
    """Whether a family of vLLM's would stay 0 whatever the engine does."""
    return bool(family.name.startswith("vllm:") and (family.type == "gauge" or _SCHEDULERS.match(family.name)))


class Sink:
    """This module, for a log whose form is JSON."""

    Logger = RequestLogger
    MetricFamily = MetricFamily
