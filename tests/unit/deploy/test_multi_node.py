"""The nodes of an engine over several pods have the same model.json, which vLLM and its program for a node take."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import kubernetes
from tools.installer.paths import CHECKOUT
from vllm_custom import node
from vllm_custom.kernel import nodes

PAGE = (CHECKOUT / "docs/guides/kubernetes.md").read_text(encoding="utf-8")
SCRIPTS = sorted((CHECKOUT / "deploy/multi_node").glob("*.sh"))
# What LeaderWorkerSet tells a worker, by the names of variables.
TOLD = {"$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS)": "10.0.0.1"}


def model_json() -> dict[str, Any]:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_both_pods_have_the_same_engine() -> None:
    leader = model_json()
    nodes.check(leader)
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
    assert group["spec"]["replicas"] == 1
    # As LeaderWorkerSet names the first leader.
    set_name = group["metadata"]["name"]
    assert leader["master_addr"] == f"{set_name}-0.{set_name}.default"


def test_the_worker_runs_the_part_of_the_leaders_model() -> None:
    (worker,) = kubernetes.workers()
    python, flag, module, *given = worker.container["args"]
    assert (python, flag, f"python -m {module}") == ("python3", "-m", nodes.PROGRAM)
    options = node.parser().parse_args([re.sub(r"\$\(\w+\)", lambda name: TOLD[name[0]], one) for one in given])
    arguments, _ = nodes.further(model_json(), options.rank, options.address)
    assert arguments == model_json() | {"node_rank": 1, "master_addr": "10.0.0.1"}
    # The folder `big/1` of the repository, which both mount.
    assert options.folder == Path("/models/big/1")
    assert "in the folder `big/1`" in PAGE


def test_vllm_has_the_arguments(vllm: None) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    assert set(model_json()) <= {field.name for field in dataclasses.fields(AsyncEngineArgs)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_bash(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)


def test_a_wrong_model_json_ends_the_script_of_a_node(tmp_path: Path) -> None:
    """It would start again and again."""
    (tmp_path / "model.json").write_text("{}")
    env = {"PATH": "/usr/bin:/bin", "RANK": "1", "BACKEND": str(CHECKOUT / "backends/vllm_custom")}
    done = subprocess.run(
        [CHECKOUT / "deploy/multi_node/node.sh", tmp_path],
        env=env | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "this engine is on one node" in done.stderr) == (2, True), done.stderr
