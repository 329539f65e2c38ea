"""Adapters, devices and config.pbtxt parameters: right ones are read, wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm_backend_lib import engine_args, lora
from vllm_backend_lib.kernel import errors

from tests.support.standin_fakes import FakeLogger


def test_parameters_of_the_configuration() -> None:
    parameters = {"A": {"string_value": "True"}, "B": {"string_value": "false"}, "C": {"string_value": "on"}}
    assert engine_args.bool_parameter(parameters, "A") is True
    assert engine_args.bool_parameter(parameters, "B") is False
    assert engine_args.bool_parameter(parameters, "missing") is False
    with pytest.raises(errors.ConfigError, match=r"config\.pbtxt: parameter C: expected true or false, got 'on'"):
        engine_args.bool_parameter(parameters, "C")


def test_adapters_are_read(tmp_path: Path) -> None:
    adapters = {"zh": str(tmp_path), "caps": "some/repository"}
    (tmp_path / "multi_lora.json").write_text(json.dumps(adapters))
    assert lora.read_lora_repository(tmp_path) == adapters


def test_an_adapter_without_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "multi_lora.json").write_text('{"zh": "/no/such/folder"}')
    with pytest.raises(errors.ConfigError, match=r"multi_lora\.json: zh: folder not found: '/no/such/folder'"):
        lora.read_lora_repository(tmp_path)


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
        with pytest.raises(errors.UnavailableError, match="the adapter 'zh' cannot be loaded") as caught:
            await adapters.request_for(engine, "zh")
        assert "/secret" not in str(caught.value)
    assert engine.loaded == ["zh", "zh"]  # it may have been mended meanwhile
    assert "/secret" in logger.lines[0]


async def test_unknown_adapters() -> None:
    with pytest.raises(errors.NotFoundError, match=r"^LoRA x is not supported, we currently support \['zh'\]$"):
        await lora.LoraAdapters({"zh": "a"}, FakeLogger()).request_for(FakeEngine(), "x")
    with pytest.raises(errors.InvalidRequestError, match=r"^LoRA feature is not enabled\.$"):
        await lora.LoraAdapters({}, FakeLogger()).request_for(FakeEngine(), "x")
