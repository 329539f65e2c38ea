"""Models are read in the Python that serves, with Triton's own schema or the part of it that is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.installer import inspection, inspection_program
from tools.installer.paths import BACKEND_SOURCES, DEFAULT_REPOSITORY

pytestmark = pytest.mark.slow

CONFIG = """
backend: "vllm_custom"
instance_group [ { count: 2, kind: KIND_GPU, gpus: [0, 1] } ]
parameters { key: "MEDIA_MAX_BYTES" value: { string_value: "many" } }
dynamic_batching { preferred_batch_size: [1, 2] }
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/config.pbtxt").write_text(CONFIG)
    (tmp_path / "m/1/model.json").write_text(json.dumps({"model": "a/b"}))
    return tmp_path / "m"


def test_both_schemas_read_the_same(model: Path) -> None:
    for config in (model / "config.pbtxt", *DEFAULT_REPOSITORY.glob("*/config.pbtxt")):
        full = inspection_program.read_config(config)
        part = inspection_program.read_config(config, with_client=False)
        for key in ("backend", "parameters", "max_batch_size"):
            assert part.get(key) == full.get(key)
        assert part.keys() <= full.keys()
    assert "dynamic_batching" in inspection_program.read_config(model / "config.pbtxt")


def test_many_models_are_read_by_one_program(model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.pbtxt").write_text("platform: 'ensemble'")
    first, second = inspection.inspect([model, tmp_path / "other"])
    assert first.refused is not None
    assert "MEDIA_MAX_BYTES: expected" in first.refused
    assert (second.config, second.problem, second.refused) == ({"platform": "ensemble"}, None, None)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true", "/bin/false"])
def test_where_the_python_that_serves_cannot_read_them_this_one_does(model: Path, python: str) -> None:
    (found,) = inspection.inspect([model], python)
    assert found.config["backend"] == "vllm_custom"


def test_without_protobuf_it_says_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n')  # type: ignore[attr-defined]
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    (found,) = inspection.inspect([model], str(bare))
    assert found.problem is not None
    assert found.problem.startswith("config.pbtxt cannot be read without protobuf: ModuleNotFoundError")


def test_the_backend_beside_a_model_is_looked_for(model: Path, tmp_path: Path) -> None:
    (model / "config.pbtxt").write_text('backend: "vllm_custom"')
    (good,) = inspection.inspect([model], backend=BACKEND_SOURCES / "vllm_custom")
    (bad,) = inspection.inspect([model], backend=tmp_path / "backends/vllm_custom")
    assert good.refused is None
    assert bad.refused is not None
    assert "no vLLM backend to build on" in bad.refused
