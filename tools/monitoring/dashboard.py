"""Build the dashboard with Grafana's own types, which check it.

pip install grafana-foundation-sdk
python -m tools.monitoring.dashboard > deploy/monitoring/dashboard.json
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from tools.monitoring.panels import ROWS, Panel

_SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
_COLUMNS, _HEIGHT = 24, 8
_MOST_PER_LINE = 4


def built() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("vLLM on Triton")
        .uid("vllm-custom")
        .tags(["vllm", "triton"])
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model")
            .query("label_values(vllm_custom:sequences_in_flight, model)")
            .datasource(_SOURCE)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    )
    for row in ROWS:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_panel(panel, _COLUMNS // min(len(row.panels), _MOST_PER_LINE)))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build()))


def _panel(panel: Panel, width: int) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .span(width)
        .height(_HEIGHT)
        .datasource(_SOURCE)
    )
    for number, query in enumerate(panel.queries):
        target = (
            prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + number))
        )
        made = made.with_target(target)
    return made


if __name__ == "__main__":
    print(built())
