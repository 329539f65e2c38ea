"""vLLM's routes for speech, which get audio that has passed this model's limits and decoders already."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_SERVING = ("openai_serving_transcription", "openai_serving_translation")
_ROUTERS = tuple(f"vllm.entrypoints.speech_to_text.{task}.api_router" for task in ("transcription", "translation"))
_READ = "read_upload_with_limit"
# Of the attributes of vLLM's serving classes that bound what they decode.
_LIMITS = ("max_audio_decode_duration_s", "max_audio_decode_bytes")


def leave_audio_limits_to_us(application: Any) -> None:
    """Lift vLLM's own limits of uploads, which count decoded samples where they mean an encoded file.

    Versions of vLLM that have them elsewhere keep them: 25 MB of samples, which are six minutes at 16 kHz.
    """
    if getattr(application.state, _SERVING[0], None) is None:
        return
    for name in _SERVING:
        serving = getattr(application.state, name, None)
        for limit in _LIMITS:
            if hasattr(serving, limit):
                setattr(serving, limit, sys.maxsize)
    for name in _ROUTERS:
        try:
            router = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(router, _READ):
            setattr(router, _READ, _read_all)


async def _read_all(file: Any) -> bytes:
    content: bytes = await file.read()
    return content
