"""What the contract declares is used somewhere: a row that nobody reads is accepted, and changes nothing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import vllm_custom
from vllm_custom.contract import metrics, names
from vllm_custom.contract.metrics import METRICS
from vllm_custom.contract.table import CONFIG_PARAMETERS, REQUEST_PARAMETERS
from vllm_custom.structured_outputs.constraint import KINDS

PACKAGE = Path(vllm_custom.__file__).parent
# Read by names that are put together, and by RequestParameters.trace_headers.
READ_OTHERWISE = {"structured_outputs", *(f"guided_{kind}" for kind in KINDS), "traceparent", "tracestate"}
# Taken together as MEDIA_INPUTS, and from the attributes of those names (tests/unit/vllm_custom/responses).
NAMED_OTHERWISE = {"IMAGE", "VIDEO", "AUDIO", "FINISH_REASON", "STOP_REASON"}


class Uses(ast.NodeVisitor):
    """Of attributes, by what they are read from; of names; and of texts."""

    def __init__(self) -> None:
        self.attributes: defaultdict[str, set[str]] = defaultdict(set)
        self.names: set[str] = set()
        self.texts: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value
        if isinstance(owner, (ast.Attribute, ast.Name)):
            self.attributes[owner.attr if isinstance(owner, ast.Attribute) else owner.id].add(node.attr)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)


@pytest.fixture(scope="module")
def uses() -> Uses:
    """In all modules but those that declare; settings.py is one that uses."""
    found = Uses()
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE / "contract" / "config" and (
            path.parent != PACKAGE / "contract" or path.name == "settings.py"
        ):
            found.visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_every_config_parameter_is_read_or_compared(uses: Uses) -> None:
    """As ``settings.name``, or by its key in ``rules.check``."""
    read = {name for owner in ("settings", "_settings", "self") for name in uses.attributes[owner]}
    keys = {row.name for row in CONFIG_PARAMETERS}
    assert {key for key in keys - uses.texts if key.lower() not in read} == set()


def test_every_request_parameter_is_read(uses: Uses) -> None:
    declared = {row.name for row in REQUEST_PARAMETERS}
    assert declared - uses.attributes["control"] == READ_OTHERWISE


def test_every_input_and_output_is_read_or_filled(uses: Uses) -> None:
    declared = {name for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert declared - uses.names == NAMED_OTHERWISE


def test_every_metric_is_in_the_table_and_reported(uses: Uses) -> None:
    values = {name: value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)}
    declared = {name: value for name, value in values.items() if not name.startswith("_")}
    assert sorted(declared.values()) == sorted(family.name for family in METRICS)
    assert declared.keys() - uses.names == set()
