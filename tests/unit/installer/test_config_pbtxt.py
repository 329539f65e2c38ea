"""config.pbtxt as JSON, compared with what protobuf itself reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2

from tools.installer import config_pbtxt
from tools.installer.paths import DEFAULT_REPOSITORY

EVERYTHING = r"""
# a comment with "quotes" and { marks }
name: "m" backend: 'vllm_custom'
max_batch_size: 0
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }, { name: "image", data_type: TYPE_STRING
  dims: [ -1 ] optional: true reshape { shape: [] } } ]
input { name: "seed"; data_type: TYPE_INT64; dims: 1; dims: 2 }
output < name: "text_output" data_type: TYPE_STRING dims: [ -1 ] >
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ]
  rate_limiter { resources { name: "R" count: 4 } priority: 2 } } ]
model_transaction_policy { decoupled: True }
version_policy: { latest: { num_versions: 1 } }
parameters: { key: "A" value: { string_value: "one " "two\n\"\\\101\x41 \303\244" } }
parameters { key: "B", value { string_value: "ä" } }
metric_tags { key: "team" value: "x" }
dynamic_batching { max_queue_delay_microseconds: 0x10 preferred_batch_size: [ 1, 2 ]
  priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 5 } } }
optimization { graph { level: -1 } cuda { graph_spec { batch_size: 1 input { key: "i" value { dim: [ 1, 2 ] } }
  graph_lower_bound { input { key: "i" value { dim: 1 } } } } }
  execution_accelerators { gpu_execution_accelerator { name: "tensorrt" parameters { key: "p" value: "q" } } } }
model_warmup [ { name: "w" inputs { key: "i" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } } ]
model_metrics { metric_control { metric_identifier { family: "f" } histogram_options { buckets: [ 0.5, 1e3 ] } } }
"""


def of_protobuf(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)


def of_ours(text: str) -> Any:
    return json_format.ParseDict(config_pbtxt.parse(text), model_config_pb2.ModelConfig(), ignore_unknown_fields=True)


def test_every_form_means_what_it_means_to_protobuf() -> None:
    assert of_ours(EVERYTHING) == of_protobuf(EVERYTHING)
    assert (
        json.loads(json.dumps(config_pbtxt.parse(EVERYTHING)))["parameters"]["A"]["string_value"] == 'one two\n"\\AA ä'
    )


@pytest.mark.parametrize("file", sorted(DEFAULT_REPOSITORY.glob("*/config.pbtxt")), ids=lambda path: path.parent.name)
def test_the_examples_mean_what_they_mean_to_protobuf(file: Path) -> None:
    assert of_ours(file.read_text()) == of_protobuf(file.read_text())


@pytest.mark.parametrize("text", ["name", "name: {", "name: ]", "= 5", "input [", '"name": 5', "max_batch_size: x: 5"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"config\.pbtxt"):
        config_pbtxt.parse(text)


def test_the_lists_and_maps_are_those_of_protobuf() -> None:
    lists, maps, nested = set(), set(), set()
    seen: set[str] = set()

    def walk(message: Descriptor) -> None:
        for field in () if message.full_name in seen else message.fields:
            seen.add(message.full_name)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                (nested if field.name == "input" else maps).add(field.name)
            elif field.is_repeated:
                lists.add(field.name)
            if field.message_type is not None:
                walk(field.message_type)

    walk(model_config_pb2.ModelConfig.DESCRIPTOR)
    assert (lists, maps) == (config_pbtxt.LISTS, config_pbtxt.MAPS)
    assert nested == {"input"}
