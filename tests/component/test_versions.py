"""What Triton's configuration says of a model as a whole: several versions, warm-up, and a load with another one."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support.client import Answer, Client
from tests.support.null_engine import Records
from tests.support.servers import Loads, Repository, parameter, wait_until

MODEL = "versions"
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


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    config = CONFIG + parameter("REPORT_CUSTOM_METRICS", "true") + parameter("MAX_INFLIGHT_REQUESTS", 8)
    repository.add(MODEL, config, repository.shapes_args())
    folder = repository.folder / MODEL
    shutil.copytree(folder / "1", folder / "2")
    (folder / "warmup").mkdir()
    (folder / "warmup/text").write_bytes(len(b"2+3=").to_bytes(4, "little") + b"2+3=")
    (folder / "warmup/tokens").write_bytes(WARM_UP_TOKENS.to_bytes(4, "little"))
    load(MODEL)


def ask(client: Client, version: int, **more: object) -> Answer:
    body = {"text_input": "2+3=", "max_tokens": 2, **more}
    return client.generate(f"{MODEL}/versions/{version}", **body)


def succeeded(client: Client, version: int) -> float:
    return client.metrics().get(f'vllm_custom:requests_success_total{{model="{MODEL}",version="{version}"}}', 0)


def warm_ups(records: Records) -> int:
    lines = map(json.loads, records.file.read_text(encoding="utf-8").splitlines())
    return sum(line["event"] == "begins" and line["sampling"]["max_tokens"] == WARM_UP_TOKENS for line in lines)


def test_both_versions_answer_and_each_counts_its_own(client: Client) -> None:
    before = {version: succeeded(client, version) for version in (1, 2)}
    for version, times in ((1, 3), (2, 1)):
        for _ in range(times):
            answer = ask(client, version)
            assert (answer.status, answer.body["model_version"]) == (200, str(version))
    wait_until(lambda: [succeeded(client, version) - before[version] for version in (1, 2)] == [3, 1])
    # Who names no version gets the latest.
    assert client.generate(MODEL, text_input="2+3=", max_tokens=2).body["model_version"] == "2"


def test_each_version_was_warmed_up_before_it_was_ready(records: Records) -> None:
    assert warm_ups(records) == 2


def test_a_load_may_bring_another_configuration(client: Client, records: Records) -> None:
    """It holds until the next load, whatever config.pbtxt says."""
    changed = client.config(MODEL)
    changed["version_policy"] = {"specific": {"versions": [1]}}
    changed["parameters"]["MAX_INFLIGHT_REQUESTS"] = {"string_value": "1"}
    answer = client.load(MODEL, config=json.dumps(changed))
    assert answer.status == 200, answer.body
    wait_until(lambda: ask(client, 2).status != 200)
    assert client.config(MODEL)["parameters"]["MAX_INFLIGHT_REQUESTS"] == {"string_value": "1"}
    assert "MAX_INFLIGHT_REQUESTS" in ask(client, 1, parameters={"n": 2}).error
    assert ask(client, 1).status == 200
    assert warm_ups(records) == 3
