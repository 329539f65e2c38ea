"""What a load refuses before vLLM is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_custom import preflight
from vllm_custom.errors import ConfigError


def check(folder: Path, engine_args: Any = None, base: bool = True, **parameters: str) -> None:
    """With model.json in a version folder, and a base backend beside ours."""
    version = folder / "models/vl/1"
    version.mkdir(parents=True)
    if engine_args is not None:
        (version / "model.json").write_text(json.dumps(engine_args))
    if base:
        (folder / "backends/vllm").mkdir(parents=True)
        (folder / "backends/vllm/model.py").write_text("")
    config = {
        "name": "vl",
        "model_transaction_policy": {"decoupled": True},
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }
    preflight.check({"model_config": json.dumps(config)}, version, folder / "backends/vllm_custom")


def test_a_good_model_passes(tmp_path: Path) -> None:
    check(tmp_path, {"model": "x"})


@pytest.mark.parametrize(
    ("engine_args", "options", "words"),
    [
        (None, {}, "model.json is missing"),
        ({"model": "x", "dtpye": "half"}, {}, "unknown engine argument 'dtpye'.*dtype"),
        ({"model": "x", "enable_lora": "perhaps"}, {}, "enable_lora: expected true or false"),
        ({"model": "x", "enable_lora": True}, {}, "multi_lora.json is missing"),
        ({"model": "x"}, {"IMAGE_MAX_PIXEL": "5"}, "IMAGE_MAX_PIXELS"),
        ({"model": "x"}, {"MEDIA_INFLIGHT_BYTES": "5"}, "MEDIA_INFLIGHT_BYTES: expected at least MEDIA_REQUEST_BYTES"),
        ({"model": "x"}, {"MEDIA_CA_FILE": __file__}, "MEDIA_CA_FILE: expected certificates"),
        ({"model": "x"}, {"ENABLE_AUTO_TOOL_CHOICE": "true"}, "ENABLE_AUTO_TOOL_CHOICE needs TOOL_CALL_PARSER"),
        ({"model": "x"}, {"CHAT_TEMPLATE": "none.jinja"}, "CHAT_TEMPLATE"),
        ({"model": "x"}, {"LORA_DIR": "none"}, "LORA_DIR"),
        (
            {"model": "x", "node_rank": 1, "nnodes": 2, "master_addr": "h"},
            {},
            "node_rank: expected 0.*vllm_custom.node",
        ),
        ({"model": "x", "nnodes": 2}, {}, "master_addr: expected the address"),
        ({"model": "x"}, {"base": False}, "no vLLM backend to build on"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, engine_args: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(tmp_path, engine_args, **options)


def test_it_needs_no_vllm() -> None:
    code = "import sys, vllm_custom.preflight; sys.exit(bool({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    paths = "backends/vllm_custom"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths, "LANG": "C.UTF-8"}, check=False)
    assert done.returncode == 0
