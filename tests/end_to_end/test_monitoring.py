"""Debian's Prometheus, with the configuration of deploy/monitoring, has data for every panel after a real run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import debian, openai_cases
from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.media_files import Files
from tests.support.openai_cases import CHAT, MODEL, user
from tests.support.servers import wait_until
from tests.support.shapes import picture
from tools.installer import ports
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer
from tools.monitoring.prometheus import Prometheus, panels_without_data

pytestmark = pytest.mark.timeout(600)

FOLDER = CHECKOUT / "deploy/monitoring"
WINDOW = "20s"
ROUNDS = 8
# One that is in no cache for each round.
PICTURES = [b64(picture(41_000 + number, (224, 224)).encoded()) for number in range(ROUNDS)]


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    """prometheus and promtool."""
    try:
        prometheus, promtool = debian.programs("prometheus", "prometheus", "promtool")
    except debian.UnavailableError as error:
        pytest.skip(f"not run: {error}")
    return prometheus, promtool


@pytest.fixture(scope="module")
def prometheus(
    programs: tuple[str, str],
    triton: TritonServer,
    frontend: Frontend,
    superset: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """The configuration as it is, but for addresses and intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = (FOLDER / "prometheus.yml").read_text().replace("15s", "1s")
    for said, real in (
        ("127.0.0.1:8002", urlsplit(triton.metrics_url).netloc),
        ("127.0.0.1:9000", f"127.0.0.1:{frontend.port}"),
        ("rules.yml", str(FOLDER / "rules.yml")),
    ):
        assert said in config
        config = config.replace(said, real)
    (folder / "prometheus.yml").write_text(config)
    port = ports.choose("127.0.0.1", 0, "--port", set())
    command = [programs[0], f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            made = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(lambda: _answers(made))
            yield made
        finally:
            process.terminate()
            process.wait(30)


def _answers(server: Prometheus) -> bool:
    try:
        targets = server.ask("targets")["activeTargets"]
    except OSError:
        return False
    return {target["health"] for target in targets} == {"up"}


@pytest.fixture(scope="module")
def ran(prometheus: Prometheus, client: Client, frontend: Frontend, files: Files) -> tuple[float, float]:
    """From when to when there were requests of all kinds, some of which fail, for less time than an alert waits."""
    begun = time.time()
    url = f"{files.url}/0.png"
    with ThreadPoolExecutor(6) as pool:
        for number in range(ROUNDS):
            asked: list[Any] = [
                pool.submit(client.generate, MODEL, text_input="2+3=", max_tokens=40 + number, ignore_eos=True),
                pool.submit(client.stream, MODEL, text_input="a red circle and " * 60, max_tokens=60, ignore_eos=True),
                pool.submit(client.generate, MODEL, text_input="Describe the image.", image=[PICTURES[number]]),
                pool.submit(client.generate, MODEL, text_input="Describe the image.", image=[url]),
                pool.submit(client.generate, MODEL, text_input="x", image=["http://10.0.0.1/a.png"]),
                pool.submit(client.generate, MODEL, text_input="2+3=", temprature=1),
                pool.submit(client.generate, MODEL, text_input="2+3=", timeout=1),
                pool.submit(frontend.post, CHAT, {"model": MODEL, "messages": user(openai_cases.text("2+3="))}),
            ]
            for each in asked:
                each.result()
            time.sleep(2)
    time.sleep(5)  # what is reported at intervals, and scraped
    return begun, time.time()


def test_every_query_of_every_panel_has_data(prometheus: Prometheus, ran: tuple[float, float]) -> None:
    assert panels_without_data(prometheus, *ran, window=WINDOW) == []


def test_every_rule_can_be_evaluated_and_no_alert_fires(prometheus: Prometheus, ran: tuple[float, float]) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not prometheus.lines(name, *ran, 5.0)] == []


def test_a_panel_without_data_is_found(prometheus: Prometheus, tmp_path: Path) -> None:
    """The check can fail: before anything was recorded there is nothing."""
    assert panels_without_data(prometheus, 1000.0, 1100.0, window=WINDOW)


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"]
)
def test_promtool_accepts_it(command: str, programs: tuple[str, str]) -> None:
    done = subprocess.run([programs[1], *command.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_rules_can_fail(tmp_path: Path, programs: tuple[str, str]) -> None:
    for file in ("rules.yml", "rules_test.yml"):
        text = (FOLDER / file).read_text(encoding="utf-8")
        (tmp_path / file).write_text(text.replace("> 0.95", "> 0.85").replace("> 10\n", "> 30\n"))
    command = [programs[1], "test", "rules", "rules_test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "KVCacheFull" in done.stdout + done.stderr
