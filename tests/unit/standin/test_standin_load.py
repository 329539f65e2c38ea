"""model.json, multi_lora.json and config.pbtxt parameters: right ones are read, wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standin_fakes import FakeLogger
from vllm_backend_lib import engine_args, lora
from vllm_backend_lib.errors import ModelLoadError, NotFoundError, UnavailableError

KNOWN = ["model", "max_model_len", "dtype", "enable_lora"]


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"model": "模型"}', encoding="utf-8")
    assert engine_args.read_engine_config(tmp_path) == {"model": "模型"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file not found"),
        (b'{\n "model" "x"}', "not valid JSON: Expecting ':' delimiter at line 2 column 10"),
        (b"[]", "got a JSON list"),
        (b"", "not valid JSON"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        engine_args.read_engine_config(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_unknown_keys_are_all_named() -> None:
    with pytest.raises(ModelLoadError) as caught:
        engine_args.check_known_keys({"model": 1, "max-model-length": 1, "zzz": 1}, KNOWN, Path("model.json"))
    assert "'max-model-length' (did you mean max_model_len" in str(caught.value)
    assert str(caught.value).endswith("'zzz'")
    engine_args.check_known_keys({"model": 1}, KNOWN, Path("model.json"))


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("True", True), ("false", False), (False, False), (None, False)]
)
def test_flags_may_be_text(value: Any, expected: bool) -> None:
    assert engine_args.flag({"enable_lora": value}, "enable_lora", Path("model.json")) is expected


@pytest.mark.parametrize("value", [1, "yes", [], ""])
def test_other_values_are_no_flags(value: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.json: 'enable_lora': expected true or false, got .*"):
        engine_args.flag({"enable_lora": value}, "enable_lora", Path("model.json"))


def test_the_devices_are_counted() -> None:
    path = Path("model.json")
    assert engine_args.device_count({}, path) == 1
    assert engine_args.device_count({"tensor_parallel_size": 2, "pipeline_parallel_size": "3"}, path) == 6
    with pytest.raises(ModelLoadError, match="'tensor_parallel_size': expected a positive integer, got 'two'"):
        engine_args.device_count({"tensor_parallel_size": "two"}, path)


def test_parameters_of_the_configuration() -> None:
    parameters = {"A": {"string_value": "True"}, "B": {"string_value": "false"}, "C": {"string_value": "on"}}
    assert engine_args.bool_parameter(parameters, "A") is True
    assert engine_args.bool_parameter(parameters, "B") is False
    assert engine_args.bool_parameter(parameters, "missing") is False
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt: parameters: C: expected true or false, got 'on'"):
        engine_args.bool_parameter(parameters, "C")


def test_adapters_are_read(tmp_path: Path) -> None:
    adapters = {"zh": str(tmp_path), "caps": "some/repository"}
    (tmp_path / "multi_lora.json").write_text(json.dumps(adapters))
    assert lora.read_lora_repository(tmp_path) == adapters


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file not found"),
        ('{"zh": 5}', "'zh': expected the adapter's folder, got 5"),
        ('{"zh": ""}', "'zh': expected the adapter's folder, got ''"),
        ('{"zh": "/no/such/folder"}', "'zh': folder not found: '/no/such/folder'"),
    ],
)
def test_bad_adapters_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "multi_lora.json").write_text(content)
    with pytest.raises(ModelLoadError) as caught:
        lora.read_lora_repository(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'multi_lora.json'}: ")
    assert message in str(caught.value)


class FakeEngine:
    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.loaded: list[str] = []

    async def add_lora(self, request: Any) -> bool:
        self.loaded.append(request.lora_name)
        if self.fails:
            raise RuntimeError("no such file /secret")
        return True


@pytest.fixture(autouse=True)
def lora_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's class by its fields, so that vLLM need not be imported."""
    module = SimpleNamespace(
        LoRARequest=lambda name, number, path: SimpleNamespace(lora_name=name, lora_int_id=number, lora_path=path)
    )
    monkeypatch.setitem(__import__("sys").modules, "vllm.lora.request", module)


async def test_an_adapter_is_loaded_once() -> None:
    engine, adapters = FakeEngine(), lora.LoraAdapters({"zh": "a", "caps": "b"}, FakeLogger())
    assert await adapters.request_for(engine, None) is None
    first = await adapters.request_for(engine, "caps")
    again = await adapters.request_for(engine, "caps")
    assert (first.lora_name, first.lora_int_id, first.lora_path) == ("caps", 2, "b")
    assert again == first
    assert engine.loaded == ["caps"]


async def test_an_adapter_that_fails_says_so_without_paths() -> None:
    logger = FakeLogger()
    adapters = lora.LoraAdapters({"zh": "a"}, logger)
    engine = FakeEngine(fails=True)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="the adapter 'zh' cannot be loaded") as caught:
            await adapters.request_for(engine, "zh")
        assert "/secret" not in str(caught.value)
    assert engine.loaded == ["zh", "zh"]  # it may have been mended meanwhile
    assert "/secret" in logger.lines[0]


async def test_unknown_adapters() -> None:
    with pytest.raises(NotFoundError, match="lora_name: expected one of 'zh', got 'x'"):
        await lora.LoraAdapters({"zh": "a"}, FakeLogger()).request_for(FakeEngine(), "x")
    with pytest.raises(NotFoundError, match="runs without enable_lora"):
        await lora.LoraAdapters({}, FakeLogger()).request_for(FakeEngine(), "x")


@pytest.mark.parametrize(
    ("number", "visible", "expected"),
    [(3, None, "3"), (3, "", "3"), (1, "2,3", "3"), (0, "GPU-7f, GPU-8a", "GPU-7f")],
)
def test_a_gpu_is_counted_among_those_that_the_server_sees(number: int, visible: str | None, expected: str) -> None:
    """Under CUDA_VISIBLE_DEVICES=2,3 Triton's GPU 1 is the machine's 3; the engine went to GPU 1."""
    assert engine_args.visible_device(number, visible) == expected


def test_a_gpu_that_the_server_does_not_see() -> None:
    with pytest.raises(ModelLoadError, match=r"instance_group\.gpus: expected 0 to 1 .*got 2"):
        engine_args.visible_device(2, "2,3")
