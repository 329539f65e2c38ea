"""The null engine for tests: it refuses what vLLM refuses, and writes down what has reached it.

NULL_ENGINE_RECORD names a file, which gets a line of JSON when a request begins and another when it ends.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

# The folder is on the path, and in no package.
NullEngine: Any = importlib.import_module("null_async_llm").NullEngine
make_request: Any = importlib.import_module("null_inputs").make_request
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "ignore_eos", "n")


class RecordingEngine(NullEngine):  # type: ignore[misc]
    """Requests pass vLLM's own checks before they begin."""

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        given = {name: options.get(name) for name in ("lora_request", "trace_headers")}
        # The application of older versions of vLLM gives one that has been made.
        request = (
            prompt
            if hasattr(prompt, "mm_features")
            else make_request(
                self,
                request_id,
                prompt,
                sampling_params,
                supported_tasks=("generate",),
                priority=options.get("priority", 0),
                **given,
            )
        )
        adapter = given["lora_request"]
        _record(
            request_id,
            "begins",
            prompt_tokens=len(request.prompt_token_ids or ()),
            media=[[feature.modality, feature.identifier] for feature in request.mm_features or ()],
            sampling={name: getattr(request.sampling_params, name) for name in _SAMPLING},
            adapter=adapter.lora_name if adapter else None,
            priority=request.priority,
            trace_headers=dict(given["trace_headers"] or {}),
        )
        finished = False
        try:
            async for output in super().generate(prompt, request.sampling_params, request_id, **options):
                finished = output.finished
                yield output
        finally:
            _record(request_id, "ends", finished=finished)

    async def add_lora(self, lora_request: Any) -> bool:
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        return True


def _record(request_id: str, event: str, **more: Any) -> None:
    line = json.dumps({"id": request_id, "event": event, **more})
    with Path(os.environ["NULL_ENGINE_RECORD"]).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
