"""The two halves of an engine over several machines are given the same arguments, which vLLM has."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from tests.support import kubernetes
from tools.installer.paths import CHECKOUT

PAGE = (CHECKOUT / "docs/guides/kubernetes.md").read_text(encoding="utf-8")
# What LeaderWorkerSet tells each pod.
TOLD = {"node_rank": "$(LWS_WORKER_INDEX)", "master_addr": "$(LWS_LEADER_ADDRESS)"}


def model_json() -> dict[str, Any]:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_both_have_the_same(vllm: None) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    _, _, _, command, model, *flags = kubernetes.workers()[0].container["args"]
    assert (command, flags[0]) == ("serve", "--headless")
    worker = dict(flag.removeprefix("--").replace("-", "_").split("=") for flag in flags[1:])
    leader = model_json()
    assert worker == {key: str(value) for key, value in leader.items() if key != "model"} | TOLD
    assert model == leader["model"]
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert set(leader) <= known
    (group,) = kubernetes.of_kind("LeaderWorkerSet")
    assert leader["nnodes"] == group["spec"]["leaderWorkerTemplate"]["size"]
    parts = [
        pod
        for pod in (*kubernetes.servers(), *kubernetes.workers())
        if pod.origin.startswith(group["metadata"]["name"])
    ]
    assert len(parts) == 2
    gpus = {int(pod.container["resources"]["limits"]["nvidia.com/gpu"]) for pod in parts}
    assert {leader["tensor_parallel_size"] * leader["pipeline_parallel_size"] // leader["nnodes"]} == gpus
    assert (group["spec"]["replicas"], leader["node_rank"]) == (1, 0)
    # As LeaderWorkerSet names the first leader.
    set_name = group["metadata"]["name"]
    assert leader["master_addr"] == f"{set_name}-0.{set_name}.default"
