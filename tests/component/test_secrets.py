"""Keys, passwords in URLs, signatures and tokens are in no log and in no answer, however much is logged."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import null_engine
from tests.support.client import Client
from tests.support.frontend_process import Frontend, HttpApi
from tests.support.media_files import Files
from tests.support.null_engine import Records
from tests.support.secrets import (
    COLLECTOR,
    COOKIE,
    HEADER,
    HUB,
    KEY,
    OTHER_KEY,
    PROMPT,
    WRONG_KEY,
    bodies,
    found_in,
    redirects,
    urls,
)
from tests.support.servers import NULL_BASE, Loads, Repository, parameter, serving, wait_until
from tests.support.shapes import picture
from tools.installer.server import TritonServer

PICTURE = picture(21_000, (112, 112), count=1)
CHAT = "/v1/chat/completions"
MODELS = ("plain", "lines")


@dataclass
class Run:
    """What has been started, and everything that was answered."""

    triton: TritonServer
    client: Client
    files: Files
    servers: dict[str, HttpApi]
    logs: list[Path]
    answers: list[str]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("secrets_repository"))


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    made = Files("127.0.0.1")
    made.add([PICTURE])
    made.files["/text.png"] = b"no image"
    made.locations = redirects(made.port)
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(repository: Repository, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Tritonserver and two frontends, each logging all that it can."""
    folder = tmp_path_factory.mktemp("secrets")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens: spans cannot be sent, which is said in the logs
        env = {
            "VLLM_LOGGING_LEVEL": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {COLLECTOR}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "HF_TOKEN": HUB,
            "VLLM_API_KEY": KEY,
            "VLLM_CUSTOM_API_KEYS": KEY,
        }
        for name, log_format in zip(MODELS, ("text", "json"), strict=True):
            add(repository, name, files.port, log_format)
        records = Records(folder / "records.jsonl")
        base = null_engine.environment(os.environ.get("VLLM_BACKEND_DIR"), folder / "backends", records)
        with serving(repository, folder, env=env | base, more=(NULL_BASE,), extra=["--log-verbose=3"]) as triton:
            client = Client(triton.http_url, triton.metrics_url)
            for name in MODELS:
                Loads(triton, client)(name)
            common = [f"--api-key={OTHER_KEY}", "--log-level=debug"]
            front = [f"--triton={triton.grpc_url}", *common]
            frontend = Frontend(folder / "frontend.log", *front, env=env)
            lines = Frontend(folder / "lines.log", "--log-format=json", *front, env=env)
            with frontend, lines:
                servers: dict[str, HttpApi] = {"frontend": frontend, "lines": lines}
                logs = [folder / "server.log", frontend.log, lines.log]
                yield Run(triton, client, files, servers, logs, [])
            for name in MODELS:
                client.unload(name)


def add(repository: Repository, name: str, port: int, log_format: str) -> None:
    """A model on the null engine that fetches from one port of 127.0.0.1."""
    parameters = {
        "ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{port}",
        "ALLOWED_MEDIA_NETWORKS": "127.0.0.1/32",
        "LOG_FORMAT": log_format,
        "REPORT_CUSTOM_METRICS": "true",
    }
    config = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
    repository.add(name, config + "".join(parameter(*item) for item in parameters.items()), repository.shapes_args())


def test_native_requests(run: Run) -> None:
    for model in MODELS:
        for url in urls(run.files):
            part = {"type": "image_url", "image_url": {"url": url}}
            messages = [{"role": "user", "content": [part]}, {"role": "user", "content": [{"image_url": [url]}]}]
            asked: list[dict[str, Any]] = [
                {"text_input": PROMPT, "image": url},
                {"text_input": "x", "parameters": {"temperature": url}},
                {"text_input": "x", "parameters": {"lora_name": url}},
                {"text_input": "x", "parameters": {"guided_json": url}},
                *({"messages": json.dumps(given)} for given in (messages[:1], messages[1:], url)),
            ]
            for body in asked:
                answer = run.client.generate(model, max_tokens=1, **body)
                run.answers.append(json.dumps(answer.body))
            for event in run.client.stream(model, text_input=PROMPT, image=url, max_tokens=1):
                run.answers.append(json.dumps(event))


def test_openai_requests_in_an_envelope(run: Run) -> None:
    headers = {"authorization": f"Bearer {HEADER}", "cookie": COOKIE, "x-api-key": HEADER}
    for model in MODELS:
        for url in urls(run.files):
            for body in bodies(url, model):
                call = {"path": f"{CHAT}?api_key={HEADER}", "headers": headers, "body": body}
                answer = run.client.generate(model, openai_request=json.dumps(call))
                run.answers.append(json.dumps(answer.body))


def test_openai_requests_over_http(run: Run) -> None:
    for name, server in run.servers.items():
        model = MODELS[1] if name == "lines" else MODELS[0]
        for url in urls(run.files):
            for body in bodies(url, model):
                answer = server.post(f"{CHAT}?api_key={HEADER}", body, authorization=f"Bearer {KEY}", cookie=COOKIE)
                run.answers.append(answer.body.decode())
                assert answer.status != 401
        for key in (KEY, OTHER_KEY, WRONG_KEY, f"{WRONG_KEY}\u00e4"):
            for header in ({"authorization": f"Bearer {key}"}, {"authorization": key}, {"x_api_key": key}):
                answer = server.post(
                    CHAT, {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}, **header
                )
                run.answers.append(answer.body.decode())
        run.answers += [server.get(path).body.decode() for path in ("/metrics", "/health", "/ready")]
    assert any(json.loads(text).get("choices") for text in run.answers if text.startswith("{"))


def test_nothing_of_it_is_in_a_log(run: Run) -> None:
    run.answers += [json.dumps(run.client.config(name)) for name in MODELS]
    run.answers.append(run.client.metrics_text())
    wait_until(lambda: "export" in all_logs(run))  # that spans could not be sent
    told = all_logs(run)
    for needed in ("media refused by rule", '"event": "request"', "DEBUG", "failed: image[0]"):
        assert needed in told, "the run has logged too little to show anything"
    assert found_in(told) == []
    assert PROMPT not in told


def test_nothing_of_it_is_in_an_answer(run: Run) -> None:
    assert len(run.answers) > 500
    assert found_in("\n".join(run.answers)) == []


def all_logs(run: Run) -> str:
    return "\n".join(log.read_text(errors="replace") for log in run.logs)
