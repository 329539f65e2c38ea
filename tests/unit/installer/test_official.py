"""A release of the vLLM backend, read without importing it: what is missing or has moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.installer import doctor, environment, official
from tools.installer.checks import Check, Status
from tools.installer.paths import BACKEND_SOURCES

CLASS = """
class TritonPythonModel:
    @classmethod
    def auto_complete_config(cls, auto_complete_model_config): ...
    def initialize(self, args):
        self.vllm_engine_config = {}
        self.using_decoupled = True
        self._llm_engine, self._event_loop = None, None
        self._llm_engine_shutdown_event = None
    def execute(self, requests):
        self._ongoing_request_count += 1
    def finalize(self): ...
    def _validate_device_config(self): ...
    def _setup_lora(self):
        self.enable_lora: bool = False
        self.lora_repository = {}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(CLASS)
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "model.py").read_text()
    assert old in text
    (folder / "model.py").write_text(text.replace(old, new))


def fatal(folder: Path) -> dict[str, str]:
    return {finding.name: finding.problem for finding in official.compare(folder) if finding.is_fatal}


def test_the_stand_in_and_a_class_with_all_of_it_lack_nothing(folder: Path) -> None:
    assert fatal(folder) == {}
    assert fatal(BACKEND_SOURCES / "vllm") == {}


def test_older_names_count(folder: Path) -> None:
    for old, new in (("_setup_lora", "setup_lora"), ("_llm_engine,", "llm_engine,"), ("_ongoing", "ongoing")):
        change(folder, old, new)
    assert fatal(folder) == {}


@pytest.mark.parametrize(
    ("old", "new", "name", "problem"),
    [
        ("def _setup_lora", "def _set_up_lora", "_setup_lora", "no such method; near it: _set_up_lora"),
        ("def execute(self, requests)", "def execute(self, a, b)", "execute", "takes (a, b), was (requests)"),
        ("def finalize(self)", "def finalize(self, wait)", "finalize", "takes (wait), was ()"),
        ("self.lora_repository", "self.lora_paths", "lora_repository", "no such attribute"),
        ("class TritonPythonModel", "class Model", "TritonPythonModel", "model.py has no such class"),
    ],
)
def test_what_has_moved_is_named(folder: Path, old: str, new: str, name: str, problem: str) -> None:
    change(folder, old, new)
    assert fatal(folder)[name].startswith(problem)


def test_a_new_argument_with_a_default_is_no_matter(folder: Path) -> None:
    change(folder, "def finalize(self)", "def finalize(self, wait=True)")
    assert fatal(folder) == {}


class TestImports:
    @pytest.fixture
    def vllm(self, tmp_path: Path) -> Path:
        package = tmp_path / "site/vllm"
        (package / "inputs").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "inputs/__init__.py").write_text(
            "from .llm import TokensPrompt\nLAZY = ['Later']\nif 1:\n    X = 1\n"
        )
        (package / "utils.py").write_text("def random_uuid(): ...\nclass Thing: ...\n")
        return package

    def problems(self, folder: Path, vllm: Path, line: str) -> list[tuple[str, bool]]:
        (folder / "utils").mkdir(exist_ok=True)
        (folder / "utils/request.py").write_text(line)
        return [(finding.name, finding.is_fatal) for finding in official.compare(folder, vllm)]

    def test_what_is_there_in_any_form(self, folder: Path, vllm: Path) -> None:
        line = "from vllm.inputs import TokensPrompt, Later, X, llm\nfrom vllm.utils import random_uuid, Thing\n"
        (vllm / "inputs/llm.py").touch()
        assert self.problems(folder, vllm, line) == []

    def test_a_name_that_a_patch_puts_back_is_told_and_is_no_failure(self, folder: Path, vllm: Path) -> None:
        line = "from vllm.inputs.data import TokensPrompt\n"
        assert self.problems(folder, vllm, line) == [("vllm.inputs.data.TokensPrompt", False)]

    def test_a_name_that_nobody_has(self, folder: Path, vllm: Path) -> None:
        line = "from vllm.utils import random_uuid, gone\nimport json\nfrom os import path\n"
        assert self.problems(folder, vllm, line) == [("vllm.utils.gone", True)]


class TestCommand:
    def test_the_installed_vllm_is_compared_as_well(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change(folder, "class Triton", "from vllm.sampling_params import SamplingParams, NoSuchParams\nclass Triton")
        found = environment.current()
        monkeypatch.setattr(environment, "describe", lambda flavour, python: (found, None))
        checks = doctor.compare_upstream(folder, None, None)
        assert doctor.run(checks, as_json=True) == 1
        read = {check["name"]: check["status"] for check in json.loads(capsys.readouterr().out)}
        assert read == {"base backend": "warn", "vllm.sampling_params.NoSuchParams": "fail"}

    def test_a_checkout_has_its_sources_in_src(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "checkout").mkdir()
        (tmp_path / "checkout/src").symlink_to(folder)
        assert doctor.compare_upstream(tmp_path / "checkout", None, None)[0].status is Status.WARN

    def test_a_folder_without_model_py(self, tmp_path: Path) -> None:
        (check,) = doctor.compare_upstream(tmp_path, None, None)
        assert isinstance(check, Check)
        assert (check.status, "contains neither model.py nor src/model.py" in check.found) == (Status.FAIL, True)
