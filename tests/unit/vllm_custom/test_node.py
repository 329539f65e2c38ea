"""The program of a further node, as far as it needs no vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_custom import node
from vllm_custom.kernel.nodes import Nodes


def write(folder: Path, **arguments: Any) -> Path:
    (folder / "weights").mkdir()
    (folder / "model.json").write_text(json.dumps({"model": "weights", **arguments}))
    return folder


def test_it_reads_the_model_json_of_the_first_node(tmp_path: Path) -> None:
    folder = write(tmp_path, nnodes=2, master_addr="head", tensor_parallel_size=2, enable_lora="true")
    arguments, found = node.arguments_of(folder, 1, None)
    assert found == Nodes(2, "nnodes", "head", 29501)
    assert arguments == {
        "model": str(folder / "weights"),
        "nnodes": 2,
        "node_rank": 1,
        "master_addr": "head",
        "tensor_parallel_size": 2,
        "enable_lora": True,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({}, "this engine is on one node"), ({"nnodes": 2, "dtpye": "half"}, "unknown engine argument 'dtpye'")],
)
def test_a_wrong_model_json_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], words: str
) -> None:
    assert node.main([str(write(tmp_path, **arguments)), "--rank=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m vllm_custom.node: model.json: ")
    assert words in said
    assert said.count("\n") == 1
