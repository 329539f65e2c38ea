"""The frontend as a package: what it shares with the backend, and the names that it is started by."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools.installer.paths import BACKEND_SOURCES, FRONTEND_SOURCES
from vllm_custom.contract import routes as contract
from vllm_custom_frontend import routes


def test_its_routes_are_those_of_the_contract() -> None:
    assert routes.OPENAI_PATHS == contract.OPENAI_PATHS


@pytest.mark.parametrize(
    ("folder", "module"),
    [(FRONTEND_SOURCES, "vllm_custom_frontend"), (BACKEND_SOURCES / "vllm_custom", "vllm_custom.frontend")],
    ids=["frontend", "earlier name"],
)
def test_it_starts_with_one_folder_on_the_path(folder: os.PathLike[str], module: str) -> None:
    environ = {**os.environ, "PYTHONPATH": os.fspath(folder)}
    command = [sys.executable, "-m", module, "--port=70000"]
    asked = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert asked.stdout == ""
    said = "error: argument --port: expected a port from 0 to 65535, got '70000'"
    assert asked.stderr.splitlines()[-1].endswith(said)
