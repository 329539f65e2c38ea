"""Values for Triton's metrics endpoint, reported on a thread of their own: a report is an exchange with the server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from .series import SeriesHolders, keep_forever


class Family(NamedTuple):
    """A metric family. ``kind`` is COUNTER, GAUGE or HISTOGRAM; a histogram has the bounds of its buckets.

    ``labels`` are those that it has in addition to the labels of all metrics, each with its values in words.
    """

    name: str
    kind: str
    description: str
    buckets: tuple[float, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


class MetricReporter:
    """Registers families and has reports made; a report that fails is logged, and the next one may succeed."""

    def __init__(
        self,
        pb_utils: Any,
        families: Iterable[Family],
        labels: Mapping[str, str],
        log_error: Callable[[str], None],
        *,
        what: str,
        thread: str,
    ) -> None:
        """
        Args:
            pb_utils: Triton's module.
            families: all that are reported to.
            labels: of all metrics: model and version, as vLLM's own families have them.
            log_error: gets a line for each failure.
            what: the metrics, for these lines.
            thread: name of the thread.
        """
        self._specs = {family.name: family for family in families}
        self._labels = dict(labels)
        self._log_error = log_error
        self._what = what
        self._families: dict[str, Any] = {}  # a metric dies with its family
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._kinds = pb_utils.MetricFamily
        self._off = False
        self._holders = SeriesHolders.of_server(pb_utils, thread, self._labels)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread)
        if self._holders is not None:
            self._executor.submit(self._holders.join)
        self._executor.submit(self._register)

    def submit(self, report: Callable[..., None], *arguments: Any) -> Future[None]:
        """Have ``report`` called with ``arguments`` on the thread; returns at once."""
        return self._executor.submit(self._run, report, arguments)

    def metric(self, family: str, **labels: str) -> Any:
        """Triton's metric with these labels, which is made once. For reports."""
        key = (family, tuple(labels.items()))
        if key not in self._metrics:
            spec = self._specs[family]
            buckets = {"buckets": list(spec.buckets)} if spec.buckets else {}
            self._metrics[key] = self._families[family].Metric(labels=self._labels | labels, **buckets)
        return self._metrics[key]

    def declare(self, family: Family) -> None:
        """Register one more family, where there is none of this name. For reports."""
        if family.name not in self._families:
            self._specs[family.name] = family
            self._register()

    def renew(self, family: str) -> bool:
        """Begin a family anew, without its series: Triton removes none of them by itself. For reports.

        Returns:
            Whether that was done: not while another process has the series too.
        """
        with self._deleting() as alone:
            if alone:
                self._metrics = {key: metric for key, metric in self._metrics.items() if key[0] != family}
                del self._families[family]
        if alone:
            self._register()
        return alone

    def close(self) -> None:
        """Report what waits, end the thread, and let go of Triton's objects, which must not outlive its memory."""
        self._executor.shutdown(wait=True)
        with self._deleting(leave=True) as alone:
            if not alone:
                keep_forever([*self._metrics.values(), *self._families.values()])
            self._metrics.clear()
            self._families.clear()

    def _deleting(self, *, leave: bool = False) -> contextlib.AbstractContextManager[bool]:
        """Whether this process may delete series."""
        return contextlib.nullcontext(True) if self._holders is None else self._holders.deleting(leave=leave)

    def _register(self) -> None:
        """Make the families that there are not yet."""
        try:
            for name, spec in self._specs.items():
                if name not in self._families:
                    kind = getattr(self._kinds, spec.kind)
                    self._families[name] = self._kinds(name=name, description=spec.description, kind=kind)
        except Exception as error:  # tritonserver runs with its metrics off
            self._off = True
            self._log_error(f"{self._what} are unavailable: {error}")

    def _run(self, report: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._off:
            return
        try:
            report(*arguments)
        except Exception as error:  # the next report may succeed
            if not self._off:
                self._log_error(f"{self._what} cannot be reported: {error}")
