"""``embedding_request`` on the vLLM backend in VLLM_BACKEND_DIR, which serves it where its release knows it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.client import Client
from tests.server.conftest import Repository

if "VLLM_BACKEND_DIR" not in os.environ:
    pytest.skip(
        "NOT RUN: set VLLM_BACKEND_DIR to the official backend's folder with model.py to test on it",
        allow_module_level=True,
    )

pytestmark = [pytest.mark.server, pytest.mark.engine]

MODEL = "embed"
CONFIG = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
# The method that serves them came with them.
SERVED = "def _infer(" in (Path(os.environ["VLLM_BACKEND_DIR"]) / "model.py").read_text(encoding="utf-8")


def test_they_are_answered_or_refused_with_the_release_that_is_needed(
    client: Client, repository: Repository, load: Callable[[str], None]
) -> None:
    repository.add(MODEL, CONFIG, repository.shapes_args(runner="pooling", convert="embed"))
    load(MODEL)
    answer = client.generate(MODEL, text_input="", embedding_request=json.dumps({"input": "2+3="}))
    if SERVED:
        assert answer.status == 200, answer.body
        assert len(json.loads(answer.text)) == 256
    else:
        assert "needs the official vLLM backend r25.11 or later" in answer.error
    wrong = client.generate(MODEL, text_input="2+3=", temperature=0)
    assert wrong.status == 400
