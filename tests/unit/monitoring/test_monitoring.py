"""What is in deploy/monitoring holds together, and with the docs."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tools.installer.paths import CHECKOUT
from tools.monitoring.panels import PANELS, ROWS
from vllm_custom.contract.metrics import METRICS
from vllm_custom_frontend.metrics import Metrics

FOLDER = CHECKOUT / "deploy/monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
EXPRESSIONS = [query.expression for panel in PANELS for query in panel.queries] + [
    rule["expr"] for group in RULES["groups"] for rule in group["rules"]
]
PARTS = re.compile(r"_(bucket|sum|count)$")


def test_the_dashboard_is_that_of_the_panels() -> None:
    """After a change of the panels: python -m tools.monitoring.dashboard."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    shown = [
        (panel["title"], panel["description"], panel["fieldConfig"]["defaults"]["unit"], _queries(panel))
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]
    assert shown == [
        (panel.title, panel.description, panel.unit, [(query.expression, query.legend) for query in panel.queries])
        for panel in PANELS
    ]
    assert [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"] == [row.title for row in ROWS]


def _queries(panel: dict[str, Any]) -> list[tuple[str, str]]:
    return [(target["expr"], target["legendFormat"]) for target in panel["targets"]]


def test_only_metrics_that_there_are_are_asked_for() -> None:
    asked = {name for text in EXPRESSIONS for name in re.findall(r"vllm_custom:\w+", text)}
    assert {PARTS.sub("", name) for name in asked} <= {family.name for family in METRICS}
    registry = Metrics().registry
    known = {family.name for family in registry.collect()} | {"vllm_custom_frontend_endpoint_usable"}
    asked = {name for text in EXPRESSIONS for name in re.findall(r"vllm_custom_frontend_\w+", text)}
    assert {name.removesuffix("_total") for name in asked} <= known


def test_every_alert_has_its_section_in_the_runbook_and_its_tests() -> None:
    pages = set()
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    tested = [case["name"] for case in tests]
    for rule in ALERTS:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        pages.add(page)
        assert anchor == rule["alert"].lower()
        assert {rule["alert"], f"{rule['alert']} stays quiet"} <= set(tested)
    (page,) = pages
    headings = re.findall(r"^## (\w+)$", (CHECKOUT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
