"""vLLM's own wait for engines on other nodes, and its own count of devices."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from vllm_custom.engine import vllm as engine
from vllm_custom.engine.host.host import CoreError
from vllm_custom.errors import ConfigError

pytestmark = pytest.mark.usefixtures("vllm")
WAIT_SECONDS = 0.3


def wait(*ranks_elsewhere: int) -> None:
    """With one engine here, which has started, and these on other nodes, of which none comes."""
    from vllm.v1.engine import utils

    engines = [utils.CoreEngine(0, local=True), *(utils.CoreEngine(rank, local=False) for rank in ranks_elsewhere)]
    launch = utils.CoreEngineLaunch(None, None, utils.EngineZmqAddresses([], []), None)
    parallel: Any = SimpleNamespace(
        data_parallel_size_local=1,
        data_parallel_hybrid_lb=False,
        data_parallel_external_lb=False,
        distributed_timeout_seconds=WAIT_SECONDS,
    )
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        utils.wait_for_engine_startup(router, engines, parallel, False, SimpleNamespace(), launch)  # type: ignore[arg-type]


def test_engines_on_other_nodes_are_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine import utils

    monkeypatch.setattr(utils, "wait_for_engine_startup", utils.wait_for_engine_startup)  # it is as before afterwards
    engine.bound_waits()
    engine.bound_waits()
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"expected 3 engines, but rank 1, 2 did not connect within 0.3 seconds"):
        wait(1, 2)
    assert time.monotonic() - began >= WAIT_SECONDS


@pytest.mark.parametrize(("binding", "refused"), [("auto", True), ("nobind", False)])
def test_more_workers_than_numa_nodes(monkeypatch: pytest.MonkeyPatch, binding: str, refused: bool) -> None:
    """vLLM's CPU build stops with an assertion in a process of its own, which the load's error did not say."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    engine.check_devices({"data_parallel_size": 1000}, None)
    if refused:
        with pytest.raises(ConfigError, match=r"tensor_parallel_size: expected at most .* NUMA nodes"):
            engine.check_devices({"tensor_parallel_size": 1000}, None)
    else:
        engine.check_devices({"tensor_parallel_size": 1000}, None)


def test_a_build_without_ray_refuses_it() -> None:
    """Ray would be connected to, or started, before vLLM says so in a process of its own."""
    from vllm.platforms import current_platform

    if current_platform.ray_device_key:
        pytest.skip("not run: this build of vLLM uses Ray")
    with pytest.raises(ConfigError, match=r"model.json: data_parallel_backend: expected another than 'ray'.* on cpu"):
        engine.check_devices({"data_parallel_backend": "ray"}, None)


async def test_instances_share_no_engine_that_is_on_other_nodes_in_part(tmp_path: Path) -> None:
    """Its sockets are files of this node."""
    from vllm_custom.engine.vllm.host.core import VllmCore

    parallel = SimpleNamespace(data_parallel_backend="mp", data_parallel_size=2, data_parallel_size_local=1)
    config = SimpleNamespace(parallel_config=parallel, model_config=SimpleNamespace(multimodal_config=None))
    with pytest.raises(CoreError, match=r"data_parallel_size_local: expected 2 .*SHARE_ENGINE.*, got 1"):
        await VllmCore(tmp_path).start(pickle.dumps(config), log_stats=True, fronts=2)
