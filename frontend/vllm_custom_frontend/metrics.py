"""What the frontend counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vllm_custom_frontend.endpoint import Endpoint

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one frontend."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter("vllm_custom_frontend_requests", "Completed requests.", labels, registry=self._registry)
        self.seconds = Histogram(
            "vllm_custom_frontend_request_seconds",
            "Time from a request's arrival to the last byte of its response, in seconds.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.open = Gauge("vllm_custom_frontend_open_requests", "Requests in progress.", registry=self._registry)
        self.failures = Counter(
            "vllm_custom_frontend_triton_failures",
            "Calls to a Triton server that failed: no connection, a broken one, or an error.",
            ("server",),
            registry=self._registry,
        )
        self.disconnects = Counter(
            "vllm_custom_frontend_disconnects",
            "Clients that disconnected before the end of their response.",
            registry=self._registry,
        )

        self.usable = Gauge(
            "vllm_custom_frontend_endpoint_usable",
            "Whether a model on a server is usable: 1 or 0.",
            ("server", "model"),
            registry=self._registry,
        )

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Set what is known of the endpoints now."""
        self.usable.clear()
        for endpoint in endpoints:
            usable = not endpoint.health.broken
            self.usable.labels(endpoint.triton.address, endpoint.model.name).set(usable)

    def text(self) -> bytes:
        """The exposition format."""
        return bytes(generate_latest(self._registry))
