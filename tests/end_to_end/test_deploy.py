"""What deploy/kubernetes names is there on a running server and frontend: metrics, ports, paths, options."""

from __future__ import annotations

import re
import subprocess

import psutil
import pytest

from tests.support import kubernetes
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.openai_cases import MODEL
from tests.support.servers import wait_until
from tools.installer import triton_options
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("superset")

COMMANDS = {pod.origin: kubernetes.command(pod) for pod in kubernetes.servers()}


def test_metrics_that_autoscalers_ask_for_are_there_with_their_model(client: Client) -> None:
    asked = {name for query in kubernetes.queries() for name in re.findall(r"vllm\w*:\w+", query)}
    assert asked == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    labels = f'{{model="{MODEL}",version="1"}}'
    wait_until(lambda: {f"{name}{labels}" for name in asked} <= set(client.metrics()))
    assert 0 <= client.metrics()[f"vllm:kv_cache_usage_perc{labels}"] <= 1, "what 0.8 of it means"


def test_paths_that_are_scraped_have_metrics(client: Client, triton: TritonServer, frontend: Frontend) -> None:
    (monitor,) = kubernetes.of_kind("PodMonitor")
    paths = {it["port"]: it["path"] for it in monitor["spec"]["podMetricsEndpoints"]}
    assert triton.metrics_url.endswith(f":{triton.metrics_port}{paths['metrics']}")
    assert "nv_inference_request_success" in client.metrics_text()
    assert b"vllm_custom_frontend_open_requests" in frontend.get(paths["openai"]).body
    (runtime,) = kubernetes.of_kind("ServingRuntime")
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/path"] == paths["metrics"]


def test_probes_are_answered(frontend: Frontend) -> None:
    paths = {
        pod.container[probe]["httpGet"]["path"]
        for pod in kubernetes.servers()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    wait_until(lambda: frontend.get(f"/ready/{MODEL}").status == 200)
    for path in paths:
        assert frontend.get(path).status == 200


@pytest.mark.parametrize("origin", COMMANDS)
def test_options_and_ports_are_those_of_this_tritonserver(triton: TritonServer, origin: str) -> None:
    process = psutil.Process(triton.pid)
    told = subprocess.run([process.exe(), "--help"], capture_output=True, text=True, env=process.environ(), check=False)
    known = set(re.findall(r"^\s*--([\w-]+)", told.stdout + told.stderr, re.MULTILINE))
    options = {option.removeprefix("--").partition("=")[0] for option in COMMANDS[origin].triton[1:]}
    assert options <= known
    for service in triton_options.PORTS:
        assert f"{service}-port" in known
