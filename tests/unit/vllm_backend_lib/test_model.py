"""model.py itself, with the Python half of Triton's binding and without its native half."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm_backend_lib.contract import INPUTS, OUTPUTS
from vllm_backend_lib.errors import ModelLoadError
from vllm_backend_lib.interfaces import SafeLogger
from vllm_backend_lib.kernel import errors

from tests.support.standin_fakes import FakeLogger, FakeRequest
from tools.installer import backends
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT

MODEL = CHECKOUT / "backends" / "vllm" / "model.py"
BINDING = "triton_python_backend_utils"


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The binding that the server of the tests brings, plus what its native half would add."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        pytest.skip("nvidia-pytriton is not installed")
    folder = Path(found.submodule_search_locations[0]) / "tritonserver" / "backends" / "python"
    spec = importlib.util.spec_from_file_location(BINDING, folder / f"{BINDING}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    native: dict[str, Any] = {"Logger": FakeLogger(), "get_model_dir": lambda: str(tmp_path)}
    for name, value in native.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, BINDING, module)
    return module


@pytest.fixture
def model_class(binding: Any) -> Any:
    """The class, loaded under another name than `model`, as a subclass would load it."""
    spec = importlib.util.spec_from_file_location("standin_under_test", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # It would move the tests' own process to a group of its own.
    module.orphans = SimpleNamespace(guard_against_orphans=lambda warn: None)
    return module.TritonPythonModel


def arguments(kind: str = "CPU", **config: Any) -> dict[str, str]:
    """What Triton passes to initialize."""
    whole = {
        "name": "m",
        "max_batch_size": 0,
        "input": list(INPUTS),
        "output": list(OUTPUTS),
        "model_transaction_policy": {"decoupled": True},
        **config,
    }
    return {
        "model_config": json.dumps(whole),
        "model_name": "m",
        "model_version": "1",
        "model_instance_kind": kind,
        "model_instance_device_id": "3",
    }


def test_the_configuration_is_completed(binding: Any, model_class: Any) -> None:
    empty = {"name": "m", "max_batch_size": 0, "input": [], "output": []}
    config = model_class.auto_complete_config(binding.ModelConfig(json.dumps(empty))).as_dict()
    assert [tensor["name"] for tensor in config["input"]] == [tensor["name"] for tensor in INPUTS]
    assert [tensor["name"] for tensor in config["output"]] == [tensor["name"] for tensor in OUTPUTS]
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["max_batch_size"] == 0


_IMPORT = """
import sys
sys.path += sys.argv[1:]
import vllm_backend_lib.requests, vllm_backend_lib.engine, vllm_backend_lib.engine_args
import vllm_backend_lib.kernel.metrics, vllm_backend_lib.kernel.orphans
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"vllm", "torch", "vllm_custom"}))
"""


def imported(*folders: Path) -> str:
    """What of vLLM and vllm_custom comes with the stand-in's modules in a process of their own."""
    command = [sys.executable, "-I", "-c", _IMPORT, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_it_is_installed_it_needs_neither_vllm_nor_vllm_custom_to_complete(tmp_path: Path) -> None:
    """Its kernel is a copy of its own: vllm_custom may be absent, or a later version in the same process."""
    folder = backends.copy_source("vllm", tmp_path)
    assert imported(folder) == ""
    assert imported(folder, BACKEND_SOURCES / "vllm_custom") == ""


def started(model_class: Any, tmp_path: Path, engine_args: dict[str, Any], args: dict[str, str]) -> Any:
    """The model after as much of initialize as succeeds with these engine arguments."""
    (tmp_path / "model.json").write_text(json.dumps(engine_args))
    model = model_class()
    model._init_engine = lambda: None
    model._start_replies = lambda: None
    model.initialize(args)
    return model


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the place of vLLM's engine arguments."""
    fields = [("model", str, ""), ("disable_log_stats", bool, False), ("enable_lora", bool, False)]
    sizes = [("tensor_parallel_size", int, 1), ("pipeline_parallel_size", int, 1)]
    made = dataclasses.make_dataclass("AsyncEngineArgs", [*fields, *sizes])
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(AsyncEngineArgs=made))


@pytest.mark.usefixtures("no_vllm")
class TestInitialize:
    def test_the_official_attributes(self, model_class: Any, tmp_path: Path) -> None:
        model = started(model_class, tmp_path, {"model": "x", "enable_lora": "false"}, arguments())
        assert model.using_decoupled is True
        assert model.vllm_engine_config == {"model": "x", "enable_lora": "false"}
        assert model._aync_engine_args.enable_lora is False
        assert (model.enable_lora, model._enable_metrics, model._enable_health_check) == (False, False, False)
        assert (model._is_healthy, model._vllm_metrics) == (True, [])

    def test_one_gpu_is_chosen_by_its_number(
        self, model_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
        started(model_class, tmp_path, {"model": "x"}, arguments("GPU"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"

    def test_several_gpus_need_the_kind_model(self, model_class: Any, tmp_path: Path) -> None:
        several = {"model": "x", "tensor_parallel_size": 2}
        with pytest.raises(errors.ConfigError, match=r"expected KIND_MODEL, got KIND_GPU"):
            started(model_class, tmp_path, several, arguments("GPU"))
        started(model_class, tmp_path, several, arguments("MODEL"))

    def test_a_policy_that_is_not_decoupled(self, model_class: Any, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="decoupled: expected true or no value, got false"):
            started(model_class, tmp_path, {"model": "x"}, arguments(model_transaction_policy={"decoupled": False}))

    def test_no_metrics_where_vllm_keeps_no_statistics(self, model_class: Any, tmp_path: Path) -> None:
        report = {"REPORT_CUSTOM_METRICS": {"string_value": "true"}}
        args = arguments(parameters=report)
        model = started(model_class, tmp_path, {"model": "x", "disable_log_stats": True}, args)
        assert model._enable_metrics is False

    def test_a_failed_start_leaves_nothing_behind(
        self, model_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*args: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setitem(model_class.initialize.__globals__, "build_engine", fail)
        (tmp_path / "model.json").write_text('{"model": "x"}')
        finalized: list[str] = []

        class Factory:
            def finalize(self) -> None:
                finalized.append("metrics")

        model = model_class()
        model._setup_metrics = lambda: model._vllm_metrics.append(Factory())
        before = threading.active_count()
        with pytest.raises(ModelLoadError, match="vLLM could not start: RuntimeError: out of memory"):
            model.initialize(arguments())
        assert finalized == ["metrics"]
        assert threading.active_count() == before


class PanicError(BaseException):
    """As a panic of a Rust library arrives: no Exception."""


class Answering:
    """A model whose engine raises what a test wants, with a logger that refuses every line."""

    def __init__(self, binding: Any, model_class: Any, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise TypeError("cannot convert")

        def response(output_tensors: Any = None, error: Any = None) -> Any:
            return error.message.encode()

        async def fail(*_: object) -> None:
            raise error

        binding.InferenceResponse = response
        binding.TritonError = lambda message, code: SimpleNamespace(message=message, code=code)
        for name in ("UNAVAILABLE", "INVALID_ARG", "INTERNAL", "NOT_FOUND", "CANCELLED"):
            setattr(binding.TritonError, name, name)
        monkeypatch.delitem(sys.modules, "vllm_backend_lib.binding", raising=False)
        spec = importlib.util.find_spec("vllm_backend_lib.binding")
        assert spec is not None
        assert spec.loader is not None
        bound = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bound)
        scope = model_class.execute.__globals__
        monkeypatch.setitem(scope, "to_response", bound.to_response)
        monkeypatch.setitem(scope, "to_triton_error", bound.to_triton_error)
        self.model = model_class()
        self.model.logger = SafeLogger(SimpleNamespace(log_error=refuse, log_verbose=refuse))
        self.model.args = {"model_name": "m"}
        self.model.supported_tasks = ("generate",)
        self.model.enable_lora, self.model.supported_loras = False, []
        self.model._ongoing_request_count, self.model._enable_health_check = 0, False
        self.model._generate = fail

    async def answers(self, requests: list[FakeRequest]) -> list[tuple[Any, int]]:
        """The only response of each request."""
        self.model._event_loop = asyncio.get_running_loop()
        self.model._llm_engine_shutdown_event = asyncio.Event()
        self.model.lora_repository = {}
        self.model._start_replies()
        try:
            await asyncio.to_thread(self.model.execute, requests)
            for request in requests:
                assert await asyncio.to_thread(request.sender.final.wait, 10), "no final response"
        finally:
            self.model._watcher.stop()
            await asyncio.to_thread(self.model._replies.stop)
        await asyncio.sleep(0)
        return [sent for request in requests for sent in request.sender.sent]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PanicError("capacity overflow"), b"internal error; the server's log has the details"),
        (SystemExit(1), b"internal error; the server's log has the details"),
        (ValueError("\ud800 at 0x7f00"), b"\\ud800 at (address)"),
    ],
)
async def test_every_failure_is_answered(
    binding: Any, model_class: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: bytes
) -> None:
    """A panic of a Rust library, or a text that the logger refuses, left the client waiting forever."""
    model = Answering(binding, model_class, error, monkeypatch)
    ((response, flags),) = await model.answers([FakeRequest(text_input="a")])
    assert (response[: len(told)], flags) == (told, 1)
    assert model.model._ongoing_request_count == 0


async def test_a_wrong_request_is_answered_and_the_next_one_is_not_touched(
    binding: Any, model_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Answering(binding, model_class, ValueError("from the engine"), monkeypatch)
    wrong = FakeRequest('{"lora_name": "\\ud800"}', text_input="a")
    (first, _), (second, _) = await model.answers([wrong, FakeRequest(text_input="a")])
    assert first == b"LoRA feature is not enabled."
    assert second == b"from the engine"
