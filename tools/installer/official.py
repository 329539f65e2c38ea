"""The vLLM backend to build on, read without importing it: its release, and the names that vllm_custom relies on."""

import ast
import difflib
import functools
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tools.installer.paths import BACKEND_SOURCES, PATCHES


@functools.cache
def _upstream(module: str) -> ModuleType:
    """A module of vllm_custom.base_backend, which needs the standard library only."""
    folder = str(BACKEND_SOURCES / "vllm_custom")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"vllm_custom.base_backend.{module}")


def release_of(folder: Path) -> str | None:
    """ "official r26.01", "stand-in", or None for sources that are not known."""
    name: str | None = _upstream("releases").release_name(folder)
    return name


def hash_of(folder: Path) -> str:
    return str(_upstream("releases").fingerprint(folder))


def source_folder(folder: Path) -> Path | None:
    """Where model.py lies: in ``folder`` itself, or in its src as in a checkout."""
    return next((place for place in (folder, folder / "src") if (place / "model.py").is_file()), None)


@dataclass(frozen=True)
class Finding:
    """One thing that vllm_custom relies on, and what became of it in a release."""

    name: str
    problem: str
    is_fatal: bool


def compare(folder: Path, vllm: Path | None = None) -> list[Finding]:
    """What a release has not, or has otherwise; with ``vllm``, the folder of that package, its imports as well."""
    tree = ast.parse((folder / "model.py").read_text(encoding="utf-8"))
    relied_on = _upstream("relied_on")
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == relied_on.CLASS]
    if not classes:
        return [Finding(relied_on.CLASS, "model.py has no such class", True)]
    found = [*_methods(classes[0], relied_on.METHODS), *_attributes(classes[0], relied_on.ATTRIBUTES)]
    return found + (_imports(folder, vllm) if vllm else [])


def _methods(owner: ast.ClassDef, wanted: "dict[tuple[str, ...], tuple[str, ...]]") -> Iterator[Finding]:
    methods = {node.name: node for node in owner.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    for names, arguments in wanted.items():
        name = next((name for name in names if name in methods), None)
        if name is None:
            yield Finding(names[0], f"no such method{_nearest(names[0], methods)}", True)
            continue
        decorators = {node.id for node in methods[name].decorator_list if isinstance(node, ast.Name)}
        first = 0 if "staticmethod" in decorators else 1
        given = tuple(argument.arg for argument in methods[name].args.args)[first:]
        required = len(given) - len(methods[name].args.defaults)
        if given[: len(arguments)] != arguments or required > len(arguments):
            yield Finding(name, f"takes ({', '.join(given)}), was ({', '.join(arguments)})", True)


def _attributes(owner: ast.ClassDef, wanted: "tuple[tuple[str, ...], ...]") -> Iterator[Finding]:
    assigned = {
        node.attr
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value)
    }
    for names in wanted:
        if not assigned.intersection(names):
            yield Finding(names[0], f"no such attribute{_nearest(names[0], assigned)}", True)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _nearest(name: str, among: "set[str] | dict[str, ast.FunctionDef | ast.AsyncFunctionDef]") -> str:
    near = difflib.get_close_matches(name, sorted(among), n=3)
    return f"; near it: {', '.join(near)}" if near else ""


def _imports(folder: Path, vllm: Path) -> list[Finding]:
    """Imports from vLLM that the installed one does not have."""
    findings = []
    patches = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PATCHES.glob("*.py"))}
    for path in sorted([folder / "model.py", *folder.glob("utils/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("vllm."):
                continue
            module = str(node.module)
            names = _names_of(vllm, module)
            for alias in node.names:
                if names is not None and alias.name in names:
                    continue
                problem = f"{path.name} imports it, and the installed vLLM does not have it"
                repaired = [name for name, text in patches.items() if module in text and alias.name in text]
                if repaired:
                    problem += f" (put back by patches/{repaired[0]}.py)"
                findings.append(Finding(f"{module}.{alias.name}", problem, not repaired))
    return findings


def _names_of(vllm: Path, module: str) -> set[str] | None:
    """What ``module`` offers, without importing it; None where there is no such module."""
    place = vllm.joinpath(*module.split(".")[1:])
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    if not file.is_file():
        return None
    names = {path.stem for path in place.glob("*")} if place.is_dir() else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # modules with lazy imports list their names as strings
    return names
