"""Questions to a Prometheus that runs."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

from tools.monitoring.panels import PANELS, concrete

_TIMEOUT_SECONDS = 30


class Line(NamedTuple):
    """One series: its labels, and pairs of time and value, in seconds."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """The HTTP API of one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **arguments: str) -> Any:
        """What an endpoint says under ``data``. Raises OSError where it refuses."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - of the caller
            return json.load(answer)["data"]

    def lines(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        """A query over a span of time, in seconds since 1970; points without a number are left out."""
        given = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        found = self.ask("query_range", **given)["result"]
        lines = [
            Line(series["metric"], [(float(at), float(text)) for at, text in series["values"] if text != "NaN"])
            for series in found
        ]
        return [line for line in lines if line.points]


def panels_without_data(server: Prometheus, start: float, end: float, *, window: str) -> list[str]:
    """Title and expression of each query of a panel to which ``server`` has no answer."""
    step = max((end - start) / 100, 1.0)
    return [
        f"{panel.title}: {query.expression}"
        for panel in PANELS
        for query in panel.queries
        if not server.lines(concrete(query.expression, window=window), start, end, step)
    ]
