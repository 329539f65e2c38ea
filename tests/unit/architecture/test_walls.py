"""The architecture as it is drawn: who may import whom, and who touches Triton's objects."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_imports_keep_to_the_contracts_of_pyproject() -> None:
    """They are in [tool.importlinter]; what is printed says which import breaks which.

    In a process of its own: import-linter disables the loggers that exist, and later tests then see no log lines.
    """
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(CHECKOUT / "frontend")])}
    checked = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_only_one_package_touches_tritons_objects() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if names & TRITONS:
            found.add(str(place) if place.parts[0] != "triton" else "triton")
    assert found == ALLOWED


def test_media_workers_load_the_decoders_and_nothing_else_of_media() -> None:
    """Workers are forked from a process with these modules. With aiohttp and pydantic it starts three times slower."""
    code = "import json, sys, vllm_custom.media.decoders.fork_server; print(json.dumps(list(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    asked = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    loaded = set(json.loads(asked.stdout))
    ours = {name for name in loaded if name.startswith("vllm_custom.") and ".media.decoders" not in name}
    assert ours == {"vllm_custom.errors", "vllm_custom.media", "vllm_custom.text"}
    assert loaded.isdisjoint({"aiohttp", "pydantic", "asyncio"})
