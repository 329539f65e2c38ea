"""The architecture as it is drawn: who may import whom, and who touches Triton's objects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGE = CHECKOUT / "backends/vllm_custom/vllm_custom"
# What only Triton's module and its requests have.
TRITONS = frozenset(
    {
        "InferenceResponse",
        "MetricFamily",
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
        "get_input_tensor_by_name",
        "get_response_sender",
        "triton_python_backend_utils",
    }
)
# Metrics of media are reported where they are counted.
ALLOWED = frozenset({"triton", "media/metrics.py"})


def test_imports_keep_to_the_contracts_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in [tool.importlinter]; what is printed says which import breaks which."""
    monkeypatch.chdir(CHECKOUT)
    assert lint_imports(config_filename=str(CHECKOUT / "pyproject.toml"), no_cache=True) == 0


def test_only_one_package_touches_tritons_objects() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if names & TRITONS:
            found.add(str(place) if place.parts[0] != "triton" else "triton")
    assert found == ALLOWED
