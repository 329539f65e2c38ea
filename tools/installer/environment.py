"""The environment: one virtual environment per flavour, lock and Python, kept outside the checkout."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.installer import hooks, interpreter, locks, machine, torch_build
from tools.installer.console import BuildError, Progress
from tools.installer.paths import PROGRAM, home
from tools.installer.pip import Pip

# Raise it when the way of installing changes, so that environments made the old way are not taken for new ones.
RECIPE = 1
MARKER = "vllm_custom-environment.json"


@dataclass(frozen=True)
class Environment:
    """A folder with a virtual environment, whether or not it is finished."""

    folder: Path
    flavour: str

    @property
    def hardware(self) -> str:
        """What it runs on: cpu or cuda."""
        return locks.hardware(self.flavour)

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def marker(self) -> Path:
        return self.folder / MARKER

    @property
    def log(self) -> Path:
        return self.folder / "pip.log"

    @property
    def is_complete(self) -> bool:
        return self.marker.is_file() and self.python.exists()

    @property
    def facts(self) -> dict[str, str]:
        """What was written down when the installation was finished."""
        loaded: dict[str, str] = json.loads(self.marker.read_text())
        return loaded

    @property
    def site_packages(self) -> Path:
        found = sorted(self.folder.glob("lib/python3.*/site-packages"))
        if not found:
            raise BuildError(f"{self.folder} holds no packages", f"run `{PROGRAM} install`")
        return found[0]

    @property
    def python_minor(self) -> str:
        return self.site_packages.parent.name.removeprefix("python")

    @property
    def triton(self) -> Path:
        """What nvidia-pytriton brings: bin/tritonserver, backends/python, python_backend_stubs, caches."""
        return self.site_packages / "pytriton/tritonserver"

    @property
    def library_folder(self) -> Path | None:
        """Where the loader must look for this Python's own libpython first; None where it looks anyway."""
        library = Path(self.facts["libpython"]).parent
        return None if library.is_relative_to("/usr/lib") or library.is_relative_to("/lib") else library


def current() -> Environment:
    """The environment this process runs in (for tests and the demo's client)."""
    environment = Environment(Path(sys.prefix), "")
    if not environment.is_complete:
        raise BuildError(f"{sys.prefix} was not made by {PROGRAM}", f"run this through `{PROGRAM}`")
    return Environment(environment.folder, environment.facts["flavour"])


def describe(flavour: str | None = None, python: str | None = None) -> tuple[Environment, interpreter.Interpreter]:
    """The environment that belongs to this lock and Python, made or not."""
    flavour = flavour or os.environ.get("VLLM_CUSTOM_FLAVOUR") or machine.default_flavour()
    if flavour not in locks.all_flavours():
        raise BuildError(f"the flavour {flavour!r} does not exist", f"choose one of {', '.join(locks.FLAVOURS)}")
    chosen = interpreter.choose(python or os.environ.get("VLLM_CUSTOM_PYTHON"))
    pins = sorted(locks.read_pins(flavour, chosen.minor).items())
    key = hashlib.sha256(repr((RECIPE, chosen.version, str(chosen.path), pins)).encode()).hexdigest()[:12]
    folder = home() / f"env-{flavour}-py{chosen.minor.replace('.', '')}-{key}"
    return Environment(folder, flavour), chosen


def ensure(progress: Progress, flavour: str | None = None, python: str | None = None) -> Environment:
    """The finished environment; installs what is missing, and goes on where an earlier run was stopped."""
    machine.check_system()
    environment, chosen = describe(flavour, python)
    with _only_one(environment, progress):
        if not environment.is_complete:
            _install(environment, chosen, progress)
        hooks.install(environment.site_packages, environment.hardware)
    return environment


def _install(environment: Environment, chosen: interpreter.Interpreter, progress: Progress) -> None:
    pins = locks.read_pins(environment.flavour, chosen.minor)
    progress.step(f"environment: {environment.folder} (Python {chosen.version}, {environment.flavour})")
    _make_venv(environment, chosen, progress)
    installed = installed_versions(environment)
    missing = {name: version for name, version in pins.items() if installed.get(name, "").split("+")[0] != version}
    if set(installed) - {"pip", "setuptools"}:  # what a new virtual environment brings
        progress.step(f"going on: {len(pins) - len(missing)} of {len(pins)} packages are there")
    machine.check_disk(environment.folder, machine.DISK_GIB[environment.hardware] * len(missing) / len(pins))
    pip = Pip(environment.python, environment.log, progress).with_uv()
    torch = _install_torch(environment, pip, missing.pop("torch", None))
    if missing:
        progress.step(f"installing {len(missing)} packages")
        requirements = environment.folder / "requirements.txt"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in missing.items()))
        pip.install(("--no-deps", "-r", str(requirements)), "the packages of the lock", total=len(missing))
    _verify(environment, pins)
    _name_vllm(environment)
    _finish(environment, chosen, torch)
    progress.step(f"installed in {progress.elapsed_seconds:.0f} s")


def _install_torch(environment: Environment, pip: Pip, version: str | None) -> str:
    """Returns where torch came from, which an interrupted run has written down."""
    note = environment.folder / "torch-build.txt"
    if version is not None:
        if environment.hardware == "cpu":
            origin = torch_build.install_cpu(pip, version, environment.folder)
        else:
            origin = torch_build.install_cuda(pip, version)
        note.write_text(origin)
    return note.read_text() if note.is_file() else "unknown"


def _make_venv(environment: Environment, chosen: interpreter.Interpreter, progress: Progress) -> None:
    pip = [str(environment.python), "-m", "pip", "--version"]
    if environment.python.exists() and subprocess.run(pip, capture_output=True, check=False).returncode == 0:
        _drop_half_installed(environment)
        return
    if environment.folder.exists():
        shutil.rmtree(environment.folder)
    progress.step("making the virtual environment")
    machine.check_disk(environment.folder, machine.DISK_GIB[environment.hardware])
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [str(chosen.path), "-m", "venv", str(environment.folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(
            f"{chosen.path} could not make a virtual environment:\n{(result.stdout + result.stderr).strip()[-600:]}",
            f"on Debian and Ubuntu: sudo apt-get install python{chosen.minor}-venv",
        )


def _drop_half_installed(environment: Environment) -> None:
    """pip and uv write INSTALLER late: a package without it was cut off, and would be taken for installed."""
    for folder in environment.site_packages.glob("*.dist-info"):
        if not (folder / "INSTALLER").is_file():
            shutil.rmtree(folder)


def installed_versions(environment: Environment) -> dict[str, str]:
    """Every installed distribution with its version, by the names that locks use. Reads names of folders only."""
    versions = {}
    for folder in environment.site_packages.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        versions[name.lower().replace("_", "-").replace(".", "-")] = version
    return versions


def differences(environment: Environment, pins: dict[str, str]) -> list[str]:
    """Where the environment is not what the lock says."""
    installed = installed_versions(environment)
    return [
        f"{name}: {installed.get(name, 'missing')} instead of {version}"
        for name, version in pins.items()
        # A local label (+cpu) says which build of the same version it is.
        if installed.get(name, "").split("+")[0] != version
    ]


def _verify(environment: Environment, pins: dict[str, str]) -> None:
    wrong = differences(environment, pins)
    if wrong:
        raise BuildError(
            f"pip succeeded, but the environment differs from the lock: {'; '.join(wrong[:5])}",
            f"remove {environment.folder} and run `{PROGRAM} install` again",
        )
    if not (environment.triton / "bin/tritonserver").is_file():
        raise BuildError("nvidia-pytriton brought no tritonserver", f"remove {environment.folder} and install again")


def _name_vllm(environment: Environment) -> None:
    """Older versions of vLLM know by the version of a package called vllm that they are built for a CPU."""
    vllm = locks.older_vllm(environment.flavour)
    if vllm:
        folder = environment.site_packages / f"vllm-{vllm}+cpu.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm}+cpu\n")
        (folder / "INSTALLER").write_text("vllm_custom\n")


def _finish(environment: Environment, chosen: interpreter.Interpreter, torch: str) -> None:
    facts = {
        "flavour": environment.flavour,
        "python": chosen.version,
        "libpython": str(chosen.libpython),
        "torch": torch,
    }
    partial = environment.marker.with_suffix(".part")
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.replace(environment.marker)


@contextlib.contextmanager
def _only_one(environment: Environment, progress: Progress) -> Iterator[None]:
    """Two installations of one environment wait for each other; the system frees the lock of one that dies."""
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with environment.folder.with_name(f"{environment.folder.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step(f"another {PROGRAM} is using this environment: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
