"""`doctor` says when qwen-vl-utils is missing, for the models that need it or can use it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.installer import qwen_check
from tools.installer.checks import Check, Status
from tools.installer.repository import Model
from vllm_custom.engine.vllm import qwen


def python(folder: Path, *, has_package: bool) -> Path:
    """A Python that says whether the package is there."""
    made = folder / "python"
    made.write_text(f"#!/bin/sh\nexit {int(not has_package)}\n")
    made.chmod(0o755)
    return made


def check(folder: Path, family: str, *, has_package: bool = False, **parameters: str) -> list[Check]:
    lines = [f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    model, weights = folder / "model", folder / "model/1/weights"
    weights.mkdir(parents=True)
    (model / "config.pbtxt").write_text("\n".join(['backend: "vllm_custom"', *lines]))
    (model / "1/model.json").write_text(json.dumps({"model": "weights"}))
    (weights / "config.json").write_text(json.dumps({"model_type": family}))
    return list(qwen_check.check(python(folder, has_package=has_package), Model.of(model)))


@pytest.mark.parametrize("family", qwen_check.FAMILIES)
def test_a_model_of_qwen_can_use_it(tmp_path: Path, family: str) -> None:
    (found,) = check(tmp_path, family)
    assert (found.status, found.name) == (Status.WARN, "model: qwen-vl-utils")
    assert found.fix.endswith("-m pip install qwen-vl-utils")


def test_a_model_that_is_configured_for_it_needs_it(tmp_path: Path) -> None:
    (found,) = check(tmp_path, "qwen2_5_vl", QWEN_VL_UTILS="true")
    assert found.status is Status.FAIL


def test_it_is_there(tmp_path: Path) -> None:
    (found,) = check(tmp_path, "qwen2_5_vl", has_package=True)
    assert found.status is Status.OK


def test_other_models_do_not_need_it(tmp_path: Path) -> None:
    assert check(tmp_path, "llama") == []


def test_the_question_is_one_that_python_understands(tmp_path: Path) -> None:
    """This environment has the package."""
    check(tmp_path, "qwen2_vl")
    (found,) = qwen_check.check(sys.executable, Model.of(tmp_path / "model"))
    assert found.status is Status.OK


def test_the_families_are_those_of_the_backend() -> None:
    assert qwen_check.FAMILIES == qwen._FAMILIES
