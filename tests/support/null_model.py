"""The decoupled model that most component tests share: shapes_vl on the null engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.support.servers import ADAPTERS, SHARED_MODEL, Repository, parameter

MODEL = "null"
MAX_INFLIGHT = 4
# Of generation_config.json: what holds for requests that say nothing, and the most tokens of any request.
DEFAULTS = {"temperature": 0.9, "top_k": 60, "top_p": 0.97, "repetition_penalty": 1.05, "max_new_tokens": 7000}
_TENSORS = """
input [
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "stop" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "seed" data_type: TYPE_INT64 dims: [ -1 ] optional: true },
  { name: "ignore_eos" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "tenant" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
"""


def add(repository: Repository, folder: Path, *, media_ports: Sequence[int], media_folder: Path) -> None:
    """Add the model.

    Args:
        repository: gets the model.
        folder: gets its generation config.
        media_ports: it may fetch from 127.0.0.1 at these ports.
        media_folder: it may read these files.
    """
    (folder / "generation_config.json").write_text(json.dumps(DEFAULTS))
    parameters: dict[str, object] = {
        "ALLOWED_MEDIA_DOMAINS": ", ".join(
            f"{host}:{port}" for host in ("127.0.0.1", "localhost") for port in media_ports
        ),
        "ALLOWED_MEDIA_NETWORKS": "127.0.0.1/32",
        "ALLOWED_LOCAL_MEDIA_PATH": media_folder,
        "MEDIA_FETCH_TIMEOUT_SECONDS": 240,
        "MAX_INFLIGHT_REQUESTS": MAX_INFLIGHT,
        "REPORT_CUSTOM_METRICS": "true",
    }
    arguments = repository.shapes_args(
        generation_config=str(folder), enable_lora=True, max_loras=3, max_lora_rank=16, scheduling_policy="priority"
    )
    config = SHARED_MODEL + _TENSORS + "".join(parameter(*item) for item in parameters.items())
    repository.add(MODEL, config, arguments, multi_lora__json=json.dumps(ADAPTERS))
