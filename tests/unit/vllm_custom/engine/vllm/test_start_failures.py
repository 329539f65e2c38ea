"""An engine that does not start: what its processes log is what whoever started it is told."""

from __future__ import annotations

import importlib
import logging
import logging.config
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

VLLMS_WORDS = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


@pytest.fixture(scope="module")
def failures(vllm: None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("vllm_custom.engine.vllm.start_failures")


@pytest.fixture(autouse=True)
def starter(failures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is about to start an engine, and is its processes as well."""
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", str(tmp_path))
    monkeypatch.setenv(failures._VARIABLE, "")
    failures.expect_failure()
    failures.note_failure()
    handled = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handled.items():
        signal.signal(number, handler)
    for logger in map(logging.getLogger, failures._LOGGERS):
        logger.filters = [one for one in logger.filters if not isinstance(one, failures._Note)]


def fail_as_core() -> None:
    """vLLM's own program, with a configuration that it cannot read."""
    core = importlib.import_module("vllm.v1.engine.core").EngineCoreProc
    with pytest.raises(AttributeError):
        core.run_engine_core(vllm_config=SimpleNamespace(nothing=1))


def fail_as_worker() -> None:
    """The same of a worker, which tells its parent nothing."""
    worker = importlib.import_module("vllm.v1.executor.multiproc_executor").WorkerProc
    reader, writer = os.pipe()
    parallel = SimpleNamespace(assigned_physical_gpu_ids=None, numa_bind=False)
    config = SimpleNamespace(parallel_config=parallel)
    ready = SimpleNamespace(close=lambda: os.close(writer))
    worker.worker_main(vllm_config=config, ready_pipe=ready, rank=0, local_rank=0, wrong="argument")
    os.close(reader)


def test_a_core_says_why(failures: Any) -> None:
    fail_as_core()
    assert failures.start_failure(VLLMS_WORDS) == (
        "AttributeError: 'types.SimpleNamespace' object has no attribute 'parallel_config'"
    )


def test_a_worker_says_why_and_the_core_which_knows_less_does_not_hide_it(failures: Any) -> None:
    fail_as_worker()
    fail_as_core()
    reason = failures.start_failure(VLLMS_WORDS)
    assert reason.startswith("TypeError: ")
    assert "unexpected keyword argument 'wrong'" in reason


def test_what_is_logged_holds_no_path(failures: Any) -> None:
    try:
        raise OSError("cannot read /srv/models/weights.safetensors")
    except OSError:
        logging.getLogger(failures._LOGGERS[0]).exception("EngineCore failed to start.")
    assert failures.start_failure(VLLMS_WORDS) == "OSError: cannot read ..."


def test_loggers_that_vllm_configures_afterwards_tell_it_as_well(
    failures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM does so in the engine's process, and takes away what loggers below its own had."""
    monkeypatch.setattr(failures, "_LOGGERS", ("of_this_test.core",))
    failures.note_failure()
    configured = {"of_this_test": {"level": "INFO", "propagate": False}}
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "loggers": configured})
    try:
        raise ValueError("no room")
    except ValueError:
        logging.getLogger("of_this_test.core").exception("EngineCore failed to start.")
    assert failures.start_failure(VLLMS_WORDS) == "ValueError: no room"


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ("{'EngineCore': -9}", "its process EngineCore was killed by signal 9, as Linux does where memory is short"),
        ("{'EngineCore_DP0': -11}", "its process EngineCore_DP0 was killed by signal 11"),
        ("{'EngineCore': 1}", None),
    ],
)
def test_a_process_that_was_killed_says_nothing(failures: Any, ended: str, reason: str | None) -> None:
    assert failures.start_failure(RuntimeError(f"... Failed core proc(s): {ended}")) == reason


def test_errors_of_an_earlier_start_are_not_of_this_one(failures: Any) -> None:
    fail_as_core()
    failures.expect_failure()
    assert failures.start_failure(VLLMS_WORDS) is None
