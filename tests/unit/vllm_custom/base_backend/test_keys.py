"""What the base reads in config.pbtxt and model.json, which vllm_custom does not know."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vllm_custom import preflight
from vllm_custom.base_backend import extended
from vllm_custom.base_backend.keys import keys_in, keys_of_base, without
from vllm_custom.errors import ConfigError

SOURCE = """
KEY = "BY_THE_NAME_OF_A_CONSTANT"

class TritonPythonModel:
    def _init_engine_args(self):
        self._flag = self._get_bool_config_param("NEW_IN_THE_BASE")
        ids = self.model_config["parameters"].get("GPU_DEVICE_IDS")
        self.vllm_engine_config.pop("popped", None)
        size = int(self.vllm_engine_config.get("tensor_parallel_size", 1))
        if "asked" in self.vllm_engine_config.keys():
            self.vllm_engine_config["subscript"] = "not_a_key"
        self.other["elsewhere"] = 1
"""


@pytest.fixture
def backend_dir(tmp_path: Path) -> Path:
    base = tmp_path / "vllm"
    (base / "utils").mkdir(parents=True)
    (base / "model.py").write_text(SOURCE)
    (base / "utils/request.py").write_text('FLAG = "IN_A_HELPER"')
    return tmp_path / "vllm_custom"


def config(**parameters: str) -> dict[str, Any]:
    entries = {key: {"string_value": value} for key, value in parameters.items()}
    return {"name": "m", "model_transaction_policy": {"decoupled": True}, "parameters": entries}


def test_keys_are_read_in_the_sources(backend_dir: Path) -> None:
    keys = keys_in(backend_dir.parent / "vllm")
    assert keys.parameters >= {"NEW_IN_THE_BASE", "GPU_DEVICE_IDS", "BY_THE_NAME_OF_A_CONSTANT", "IN_A_HELPER"}
    assert keys.engine_arguments == {"popped", "tensor_parallel_size", "asked", "subscript"}


def test_only_keys_that_are_not_ours_are_left_to_the_base(backend_dir: Path) -> None:
    given = config(NEW_IN_THE_BASE="1", GPU_DEVICE_IDS="0", UNKNOWN_TO_BOTH="1", MEDIA_MAX_BYTES="5")
    left = keys_of_base(given, backend_dir).not_ours(given)
    assert left == ("NEW_IN_THE_BASE",)
    assert sorted(without(given, left)["parameters"]) == ["GPU_DEVICE_IDS", "MEDIA_MAX_BYTES", "UNKNOWN_TO_BOTH"]


def test_a_base_that_is_missing_or_cannot_be_read_knows_nothing(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    assert not keys_of_base(config(), tmp_path / "vllm_custom").parameters
    (tmp_path / "vllm/model.py").write_text("def (")
    assert not keys_of_base(config(), tmp_path / "vllm_custom").parameters
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.py").write_text('KEY = "THERE"')
    assert keys_of_base(config(VLLM_BACKEND_DIR=str(elsewhere)), tmp_path / "vllm_custom").parameters == {"THERE"}


def load(backend_dir: Path, model_config: Mapping[str, Any], **engine_arguments: Any) -> None:
    version = backend_dir.parent / "1"
    version.mkdir(exist_ok=True)
    (version / "model.json").write_text(json.dumps({"model": "x", **engine_arguments}))
    preflight.check({"model_config": json.dumps(model_config)}, version, backend_dir)


def test_a_load_does_not_refuse_what_the_base_knows(backend_dir: Path) -> None:
    """An official config.pbtxt of a later release was refused for a key that only the official backend reads."""
    load(backend_dir, config(NEW_IN_THE_BASE="true", GPU_DEVICE_IDS="1"), popped=5)
    with pytest.raises(ConfigError, match="unknown parameter 'NEW_IN_THE_BAS'"):
        load(backend_dir, config(NEW_IN_THE_BAS="true"))
    with pytest.raises(ConfigError, match="unknown engine argument 'elsewhere'"):
        load(backend_dir, config(), elsewhere=5)


def test_a_load_refuses_gpus_that_the_engine_does_not_take(backend_dir: Path) -> None:
    with pytest.raises(ConfigError, match="GPU_DEVICE_IDS: group 1: expected 2 GPUs"):
        load(backend_dir, config(GPU_DEVICE_IDS="1"), tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="GPU_DEVICE_IDS: group 1: expected numbers of GPUs"):
        load(backend_dir, config(GPU_DEVICE_IDS="all"))


class Official:
    """The part of the official class that is asked here."""

    def __init__(self) -> None:
        self.vllm_engine_config: dict[str, Any] = {}
        self.validated = False

    def _validate_device_config(self) -> None:
        self.validated = True
        os.environ["CUDA_VISIBLE_DEVICES"] = "1"  # Triton's number of the GPU

    def _setup_lora(self) -> None:
        raise AssertionError


class Hooks:
    def __init__(self, visible: str | None) -> None:
        self.visible = visible

    def engine_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return given

    def visible_devices(self, arguments: Mapping[str, Any]) -> str | None:
        return self.visible

    def lora_adapters(self, arguments: Mapping[str, Any]) -> dict[str, str] | None:
        return None


@pytest.mark.parametrize(("visible", "expected"), [("6,7", "6,7"), (None, "1")])
def test_gpus_that_were_chosen_here_are_not_chosen_by_the_base(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: str
) -> None:
    """Under CUDA_VISIBLE_DEVICES=6,7 the official class takes Triton's GPU 1 for the machine's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    model: Any = extended(Official, Hooks(visible))()
    model._validate_device_config()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    assert model.validated is (visible is None)
