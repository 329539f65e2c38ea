"""An engine that is killed in the middle of streams runs again, and the model serves, without anybody's hand."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.front_processes import engine_cores, family, hosts, is_alive
from tests.support.servers import SHAPES_VL, Loads, Repository, wait_until
from tests.support.shapes import picture
from tools.installer.server import TritonServer
from vllm_custom.engine.vllm.host import PROGRAM

pytestmark = pytest.mark.timeout(600)

MODEL = "restarts"
STREAMS = 3
CONFIG = """
backend: "vllm_custom"
instance_group [ { count: 1, kind: KIND_MODEL } ]
parameters { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }
"""
LONG: dict[str, Any] = {"text_input": "2+3=", "temperature": 0, "ignore_eos": True, "max_tokens": 8000}
LABELS = f'model="{MODEL}",version="1"'
UP, DEATHS = f"vllm_custom:engine_up{{{LABELS}}}", f"vllm_custom:engine_deaths_total{{{LABELS}}}"
RESTARTED = f'vllm_custom:engine_restarts_total{{model="{MODEL}",result="succeeded",version="1"}}'
# A load of this model, on a machine that does other things as well.
RESTART_SECONDS = 240
OPENAI = json.dumps({"path": "/v1/completions", "body": {"model": MODEL, "prompt": "2+3=", "max_tokens": 2}})


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    folder = repository.folder / MODEL
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1").symlink_to(SHAPES_VL / "1")
    load(MODEL)


@pytest.mark.parametrize("deaths", [1, 2], ids=["its own engine", "the one after it"])
def test_a_killed_engine_runs_again(client: Client, triton: TritonServer, deaths: int) -> None:
    asked = _answers(client)
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(STREAMS)]
        for events in streams:
            next(events)
        (core,) = engine_cores(triton, MODEL)
        core.kill()
        ends = [[event for event in events if "error" in event] for events in streams]
    assert [["has died" in event["error"] for event in end] for end in ends] == [[True]] * STREAMS
    assert "is being started again; try again in" in client.generate(MODEL, **LONG).error
    refused = client.generate(MODEL, openai_request=OPENAI)
    headers = json.loads(refused.body["openai_headers"])
    assert (refused.body["openai_status"], headers["x-engine-state"]) == (503, "restarting")
    assert int(headers["retry-after"]) > 0
    wait_until(lambda: client.generate(MODEL, **LONG | {"max_tokens": 2}).status == 200, RESTART_SECONDS)
    assert _answers(client) == asked
    wait_until(lambda: client.metrics().get(RESTARTED) == deaths)
    metrics = client.metrics()
    assert (metrics[UP], metrics[DEATHS]) == (1, deaths)
    (after,) = engine_cores(triton, MODEL)
    assert after != core


def _answers(client: Client) -> list[str]:
    """With adapters, and with an image, which vLLM's caches know at the second time."""
    drawn = picture(23_100, (224, 224), count=2)
    image = [base64.b64encode(drawn.encoded()).decode()]
    described = {"text_input": "Describe the image.", "image": image}
    bodies = [
        {"text_input": "2+3=", "max_tokens": 5},
        described,
        described,
        *({**described, "lora_name": name} for name in ("zh", "caps")),
    ]
    answers = [client.generate(MODEL, temperature=0, **body) for body in bodies]
    assert answers[1].text == drawn.answer()
    assert answers[4].text == drawn.answer().upper()
    return [answer.text for answer in answers]


def test_nothing_is_left_after_unload(client: Client, triton: TritonServer) -> None:
    below = [process for host in hosts(triton, MODEL, PROGRAM) for process in family(host)]
    assert below
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not any(is_alive(process) for process in below))
