"""The architecture as it is drawn: who may import whom, and who touches Triton's objects."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

from tools.installer.paths import CHECKOUT

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
# Metrics are registered there for both backends.
ALLOWED = frozenset({"triton", "kernel/metrics.py"})


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


def test_every_package_is_described() -> None:
    page = (CHECKOUT / "docs/architecture.md").read_text(encoding="utf-8")
    described = page.partition("\n## Packages\n")[2].partition("\n## ")[0]
    names = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    frontends = {f"frontend/{path.parent.name}" for path in (CHECKOUT / "frontend").glob("*/__init__.py")}
    assert {name for name in (names - {"__init__.py"}) | frontends if f"`{name}`" not in described} == set()


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
    kernel = {"vllm_custom.kernel", "vllm_custom.kernel.errors", "vllm_custom.kernel.text"}
    names = {"vllm_custom.contract", "vllm_custom.contract.image_formats"}  # of kinds of files, without what reads them
    assert ours == {"vllm_custom.errors", "vllm_custom.media"} | kernel | names
    assert loaded.isdisjoint({"aiohttp", "pydantic", "asyncio"})


def test_the_kernel_works_under_any_name_and_without_vllm() -> None:
    """It is copied into the stand-in: its modules import each other relatively, and nothing else of either backend."""
    for path in sorted((PACKAGE / "kernel").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path.name}:{node.lineno}"
                found = [] if node.level else [str(node.module)]
            roots = {name.partition(".")[0] for name in found}
            assert not roots & {"vllm_custom", "vllm_backend_lib", "vllm", "torch"}, f"{path.name}:{node.lineno}"


def test_the_stand_in_sees_all_of_the_kernel() -> None:
    modules = {path.stem for path in (PACKAGE / "kernel").glob("*.py")} - {"__init__", "fail_fast"}
    seen = ast.parse((CHECKOUT / "backends/vllm/vllm_backend_lib/kernel/__init__.py").read_text())
    imports = [node for node in seen.body if isinstance(node, ast.ImportFrom)]
    assert [alias.name for node in imports for alias in node.names] == sorted(modules)
