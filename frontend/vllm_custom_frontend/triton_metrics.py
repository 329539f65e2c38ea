"""What the frontend counts of Triton servers, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily

from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.metrics import Metrics


class TritonFailures:
    """Calls that failed."""

    def __init__(self, metrics: Metrics) -> None:
        self._failures = Counter(
            "vllm_custom_frontend_triton_failures",
            "Calls to a Triton server that failed: no connection, a broken one, or an error.",
            ("server",),
            registry=metrics.registry,
        )

    def note(self, address: str) -> None:
        """Count a failure of the server at ``address``."""
        self._failures.labels(address).inc()


class EndpointCollector:
    """How endpoints are now, as this process sees them."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = endpoints

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For prometheus_client."""
        family = GaugeMetricFamily(
            "vllm_custom_frontend_endpoint_usable",
            "Whether a model on a server is usable: 1 or 0.",
            labels=("server", "model"),
        )
        for endpoint in self._endpoints:
            family.add_metric([endpoint.triton.address, endpoint.model.name], float(not endpoint.health.broken))
        yield family
