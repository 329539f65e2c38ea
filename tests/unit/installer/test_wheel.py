"""The wheel on a machine that has nothing else: its commands, and what `vllm-custom install --into` adds from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
import tomllib

from tests.support.triton_tree import make_tree
from tools.installer import backends, command_table, environment, into, ports
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT, FRONTEND_SOURCES, PACKAGED_SOURCES

# Packages that lie next to vllm_custom in an installation.
BROUGHT = ("vllm_custom_direct", "vllm_custom_frontend")

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
# As hatchling leaves them away.
CACHES = {"__pycache__", ".DS_Store", ".mypy_cache", ".ruff_cache"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(CHECKOUT)], check=True, timeout=120)
    (made,) = folder.iterdir()
    return made


class Installed:
    """A virtual environment with the wheel and nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin = folder / "venv/bin"
        self.home = folder / "home"
        venv.create(folder / "venv", with_pip=False)
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.bin / "python"),
            "install",
            "--quiet",
            "--no-compile",
        ]
        subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VLLM_BACKEND_DIR")}
        return {**kept, "VLLM_CUSTOM_HOME": str(self.home)}

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / name), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=self.environ, cwd=self.bin
        )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("clean"), wheel)


def test_the_wheel_holds_the_package_and_the_sources_and_nothing_else(wheel: Path) -> None:
    built = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = {source: Path(source).name for source in built["packages"]}
    assert list(packages.values()) == ["vllm_custom", "vllm_custom_direct", "vllm_custom_frontend"]
    expected = set()
    for source, target in {**packages, **built["force-include"]}.items():
        origin = CHECKOUT / source
        expected |= {f"{target}/{path.relative_to(origin)}" for path in files(origin)} if origin.is_dir() else {target}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {f"{name}/py.typed" for name in packages.values()} <= expected


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not CACHES.intersection(path.parts)]


def test_its_version_is_the_package_s(wheel: Path) -> None:
    assert wheel.name.startswith(f"vllm_custom-{into.own_version()}-py3-none-any")


def test_help_has_the_commands_that_need_no_checkout(installed: Installed) -> None:
    shown = installed.run("vllm-custom", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: vllm-custom ")
    assert "`vllm-custom demo`" in shown.stdout
    listed = {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("    ") and line[4] != " "}
    assert {command.name for command in command_table.offered(is_packaged=True)} <= listed
    assert not {"test", "lock", "compatibility"} & listed
    refused = installed.run("vllm-custom", "lock")
    assert refused.returncode == 2
    assert "vllm-custom: error: " in refused.stderr


def test_every_command_that_is_offered_has_help(installed: Installed) -> None:
    for command in command_table.offered(is_packaged=True):
        shown = installed.run("vllm-custom", command.name, "--help")
        assert shown.returncode == 0, shown.stderr


def test_doctor_says_what_to_do_in_the_words_of_the_wheel(installed: Installed) -> None:
    asked = installed.run("vllm-custom", "doctor", "--json", "--python", sys.executable, "--flavour", "cpu")
    found = {check["name"]: check for check in json.loads(asked.stdout)}
    assert asked.returncode == 1, "there is no environment yet"
    assert found["environment"]["fix"] == "vllm-custom install"
    assert str(installed.home) in found["environment"]["found"]


def test_it_is_installed_into_a_triton_and_out_of_it_again(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = environment.current()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(here.library_folder or ""))
    root = make_tree(here, tmp_path / "tritonserver")
    arguments = ("install", "--into", str(root), "--stand-in", "--python", sys.executable)
    dry = installed.run("vllm-custom", *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert f"would add {root / 'backends/vllm_custom'} (from this package)" in dry.stdout
    assert not (root / "backends/vllm_custom").exists()

    real = installed.run("vllm-custom", *arguments)
    assert real.returncode == 0, real.stdout + real.stderr
    assert "to undo it: vllm-custom install --into" in real.stdout
    written = json.loads((root / "backends/vllm_custom/version.json").read_text())
    assert written["vllm_custom"] == into.own_version()
    assert written["base"]["release"] == "stand-in"
    copied = {
        f"{backends.KERNEL_COPY}/{name}": text for name, text in sources(BACKEND_SOURCES / backends.KERNEL).items()
    }
    assert sources(root / "backends/vllm") == sources(BACKEND_SOURCES / "vllm") | copied
    assert sources(root / "backends/vllm_custom") == sources(BACKEND_SOURCES / "vllm_custom")
    for name in BROUGHT:
        assert sources(root / "backends/vllm_custom" / name) == sources(FRONTEND_SOURCES / name)

    undone = installed.run("vllm-custom", "install", "--into", str(root), "--uninstall")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert sorted(path.name for path in (root / "backends").iterdir()) == ["python"]


def sources(folder: Path) -> dict[str, bytes]:
    """What a backend consists of, without what the installation adds."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files(folder)}
    added = ("version.json", "patches/", *(f"{name}/" for name in BROUGHT))
    return {name: text for name, text in found.items() if not name.startswith(added)}


def test_the_backend_takes_its_own_package_where_a_wheel_is_installed_too(installed: Installed, tmp_path: Path) -> None:
    """A backend of one version ran the package of another, once a wheel was in Triton's Python."""
    utils = tmp_path / "triton_python_backend_utils.py"
    utils.write_text("import vllm_custom\nprint(vllm_custom.__file__)\nraise SystemExit\n")
    # As Triton's stub does it, which has the backend's folder at the end already.
    code = "import runpy, sys; sys.path += sys.argv[1:]; runpy.run_path(sys.argv[1] + '/model.py')"
    command = [str(installed.bin / "python"), "-c", code, str(BACKEND_SOURCES / "vllm_custom"), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=installed.environ)
    assert Path(found.stdout.strip()).is_relative_to(BACKEND_SOURCES)


def test_the_image_can_be_built_from_it(installed: Installed) -> None:
    """Each COPY of the Dockerfile names something that the wheel brings; the context is the folder of its sources."""
    shown = installed.run("vllm-custom", "image", "--output", "-")
    assert shown.returncode == 0, shown.stderr
    (context,) = (installed.bin.parent / "lib").glob(f"python*/site-packages/{PACKAGED_SOURCES}")
    copied = [word for line in shown.stdout.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert len(copied) > 3
    assert [word for word in copied if not (context / word).exists()] == []


def test_nothing_is_written_into_the_package(installed: Installed) -> None:
    (context,) = (installed.bin.parent / "lib").glob(f"python*/site-packages/{PACKAGED_SOURCES}")
    installed.run("vllm-custom", "image")
    assert (installed.home / "build/image/Dockerfile").is_file()
    assert not (context / "build").exists()


def test_the_frontend_says_which_extra_it_needs(installed: Installed) -> None:
    shown = installed.run("vllm-custom-frontend", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: vllm-custom-frontend ")
    assert "--triton" in shown.stdout
    refused = installed.run("vllm-custom-frontend")
    assert refused.returncode == 1
    assert "pip install 'vllm_custom[frontend]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_frontend_serves_where_its_extra_is_installed(installed: Installed, tmp_path: Path) -> None:
    taken: set[int] = set()
    port, nobody = (ports.choose("127.0.0.1", 0, "--port", taken) for _ in range(2))
    command = [str(installed.bin / "vllm-custom-frontend"), f"--port={port}", f"--triton=127.0.0.1:{nobody}"]
    environ = {**installed.environ, "PYTHONPATH": str(environment.current().site_packages)}
    with subprocess.Popen(command, env=environ, cwd=tmp_path) as frontend:
        try:
            assert answers(f"http://127.0.0.1:{port}/v1/models", frontend)
        finally:
            frontend.terminate()
        assert frontend.wait(30) in {0, -signal.SIGTERM}


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether the frontend answers in HTTP at all; Triton is not there."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=60).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False
