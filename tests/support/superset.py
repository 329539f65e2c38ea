"""The model that most end-to-end tests share: shapes_vl with all that can be switched on together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.openai_cases import MESSAGES, MODEL
from tests.support.servers import ADAPTERS, SHARED_MODEL, Repository, parameter
from tests.support.versions import at_least

FINGERPRINT = "ours-1"
COMPILE_SECONDS = 5
# A model of this size would fill the space between two tokens of JSON with blanks.
# Its constraints hold from the start, and do not wait for an end of the reasoning.
CONSTRAINTS: dict[str, Any] = {"backend": "xgrammar", "disable_any_whitespace": True}
if IN_REASONING := at_least("0.11.1"):
    CONSTRAINTS["enable_in_reasoning"] = True
# What applies to requests that say nothing.
GENERATION_CONFIG = {"temperature": 0.9, "top_k": 60, "top_p": 0.97, "eos_token_id": [492, 490], "pad_token_id": 490}
LORA_FOLDER = "adapters"
GENERATED = f'vllm:generation_tokens_total{{model="{MODEL}",version="1"}}'


def engine_args(repository: Repository, folder: Path) -> dict[str, Any]:
    """Of both vLLM's own server and model.json; ``folder`` gets the generation config."""
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG))
    return repository.shapes_args(
        structured_outputs_config=CONSTRAINTS,
        enable_lora=True,
        # More than the tests have adapters: on a CPU a request without an adapter uses the last place (guides/lora.md).
        max_loras=8,
        max_lora_rank=16,
        generation_config=str(folder),
        seed=0,
    )


def add(
    repository: Repository, arguments: dict[str, Any], *, files_port: int, media_folder: Path, **more: object
) -> None:
    """Add the model, which may fetch from 127.0.0.1 at one port and read files of a folder; ``more`` parameters."""
    fingerprint = json.dumps({"fingerprint_mode": "custom", "fingerprint_value": FINGERPRINT})
    parameters: dict[str, object] = {
        "ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{files_port}, localhost:{files_port}",
        "ALLOWED_MEDIA_NETWORKS": "127.0.0.1/32",
        "ALLOWED_LOCAL_MEDIA_PATH": media_folder,
        "REPORT_CUSTOM_METRICS": "true",
        "TOOL_CALL_PARSER": "hermes",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        **({"REASONING_PARSER": "granite"} if IN_REASONING else {}),
        "OPENAI_PATHS": MESSAGES,
        "OPENAI_ARGS": fingerprint,
        "STRUCTURED_COMPILE_SECONDS": COMPILE_SECONDS,
        "LORA_DIR": LORA_FOLDER,
        **more,
    }
    config = SHARED_MODEL + "".join(parameter(*item) for item in parameters.items())
    repository.add(MODEL, config, arguments, multi_lora__json=json.dumps(ADAPTERS))
    adapters_folder(repository).mkdir()


def adapters_folder(repository: Repository) -> Path:
    """LORA_DIR of the model."""
    return repository.folder / MODEL / "1" / LORA_FOLDER


def serve_arguments(arguments: dict[str, Any]) -> list[str]:
    """The same model for vLLM's own server."""
    given = [f"--served-model-name={MODEL}", "--enable-auto-tool-choice", "--tool-call-parser=hermes"]
    given += ["--reasoning-parser=granite"] if IN_REASONING else []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        given += [flag] if value is True else [f"{flag}={json.dumps(value) if isinstance(value, dict) else value}"]
    return [*given, "--lora-modules", *(f"{name}={path}" for name, path in ADAPTERS.items())]
