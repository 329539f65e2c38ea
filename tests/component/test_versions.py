"""Several versions of a model, its warm-up, and loads of a model that is served."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tritonclient.grpc as grpcclient

from tests.support.client import Answer, Client
from tests.support.front_processes import hosts
from tests.support.null_engine import Records
from tests.support.servers import SHARED_MODEL, Loads, Repository, parameter, wait_until
from tools.installer.server import TritonServer

MODEL = "versions"
RELOADED = "reloaded"
HOST = "null_core_host"
SHORT: dict[str, Any] = {"text_input": "2+3=", "max_tokens": 2}
TWO: dict[str, Any] = {**SHORT, "parameters": {"n": 2}}
# Two seconds.
STREAMED = 400
# Of the request that Triton sends to each instance before it is ready; no other one has it.
WARM_UP_TOKENS = 13
CONFIG = """
backend: "vllm_custom"
instance_group [ { count: 1, kind: KIND_MODEL } ]
version_policy { all { } }
input [ { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true } ]
model_warmup [ {
  name: "a text"
  batch_size: 1
  inputs { key: "text_input" value: { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "text" } }
  inputs { key: "max_tokens" value: { data_type: TYPE_INT32 dims: [ 1 ] input_data_file: "tokens" } }
} ]
"""


@pytest.fixture(scope="module")
def versions(repository: Repository, load: Loads) -> None:
    config = CONFIG + parameter("REPORT_CUSTOM_METRICS", "true")
    repository.add(MODEL, config, repository.shapes_args())
    folder = repository.folder / MODEL
    shutil.copytree(folder / "1", folder / "2")
    (folder / "warmup").mkdir()
    (folder / "warmup/text").write_bytes(len(b"2+3=").to_bytes(4, "little") + b"2+3=")
    (folder / "warmup/tokens").write_bytes(WARM_UP_TOKENS.to_bytes(4, "little"))
    load(MODEL)


@pytest.fixture(scope="module")
def reloaded(repository: Repository, load: Loads) -> str:
    """A model whose engine has a host, and which ends it before it has another one."""
    config = SHARED_MODEL + parameter("UNLOAD_FIRST", "true") + parameter("MAX_INFLIGHT_REQUESTS", 8)
    repository.add(RELOADED, config, repository.shapes_args())
    load(RELOADED)
    return RELOADED


def ask(client: Client, version: int) -> Answer:
    return client.generate(f"{MODEL}/versions/{version}", **SHORT)


def succeeded(client: Client, version: int) -> float:
    return client.metrics().get(f'vllm_custom:requests_success_total{{model="{MODEL}",version="{version}"}}', 0)


def load_by_grpc(triton: TritonServer, model: str) -> None:
    """A load by HTTP keeps one of the server's threads, and with it streams of other clients, to its end."""
    with grpcclient.InferenceServerClient(triton.grpc_url) as server:
        server.load_model(model)


def warm_ups(records: Records) -> int:
    lines = map(json.loads, records.file.read_text(encoding="utf-8").splitlines())
    return sum(line["event"] == "begins" and line["sampling"]["max_tokens"] == WARM_UP_TOKENS for line in lines)


@pytest.mark.usefixtures("versions")
def test_both_versions_answer_and_each_counts_its_own(client: Client) -> None:
    before = {version: succeeded(client, version) for version in (1, 2)}
    for version, times in ((1, 3), (2, 1)):
        for _ in range(times):
            answer = ask(client, version)
            assert (answer.status, answer.body["model_version"]) == (200, str(version))
    wait_until(lambda: [succeeded(client, version) - before[version] for version in (1, 2)] == [3, 1])
    # Who names no version gets the latest.
    assert client.generate(MODEL, **SHORT).body["model_version"] == "2"


@pytest.mark.usefixtures("versions")
def test_each_version_was_warmed_up_before_it_was_ready(records: Records) -> None:
    assert warm_ups(records) >= 2  # more where Triton has lost patience with a start


def test_a_load_with_another_configuration_keeps_the_engine(
    client: Client, triton: TritonServer, reloaded: str
) -> None:
    """The configuration holds until the next load, whatever config.pbtxt says."""
    (host,) = hosts(triton, reloaded, HOST)
    changed = client.config(reloaded)
    changed["parameters"]["MAX_INFLIGHT_REQUESTS"] = {"string_value": "1"}
    answer = client.load(reloaded, config=json.dumps(changed))
    assert answer.status == 200, answer.body
    wait_until(lambda: "MAX_INFLIGHT_REQUESTS" in client.generate(reloaded, **TWO).body.get("error", ""))
    assert client.config(reloaded)["parameters"]["MAX_INFLIGHT_REQUESTS"] == {"string_value": "1"}
    assert client.generate(reloaded, **SHORT).status == 200
    assert hosts(triton, reloaded, HOST) == [host]


def test_an_engine_with_other_arguments_starts_when_the_old_one_has_ended(
    client: Client, triton: TritonServer, records: Records, repository: Repository, reloaded: str
) -> None:
    (old,) = hosts(triton, reloaded, HOST)
    (repository.folder / reloaded / "1/model.json").write_text(json.dumps(repository.shapes_args(max_num_seqs=7)))
    together, refused = 0, set()
    body = {"text_input": "2+3=", "max_tokens": STREAMED, "ignore_eos": True}
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(client.stream, reloaded, id="through-a-load", **body)
        records.begun("through-a-load")
        load = pool.submit(load_by_grpc, triton, reloaded)
        while not load.done():
            together = max(together, len(hosts(triton, reloaded, HOST)))
            refused.add(client.generate(reloaded, **SHORT).body.get("error", ""))
            time.sleep(0.1)
        load.result()
        assert all("error" not in event for event in stream.result()), "what was under way has ended as it should"
    assert together == 1
    assert any("is being loaded again" in error for error in refused)
    (new,) = hosts(triton, reloaded, HOST)
    assert new != old
    wait_until(lambda: client.generate(reloaded, **SHORT).status == 200)
