"""A vLLM backend whose engine is the null engine: the official one or the stand-in, from NULL_ENGINE_BASE.

It serves by itself (``backend: "null_base"``: the base's own responses), and vllm_custom builds on it where
VLLM_BACKEND_DIR names this folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import locale
import os
import sys
from pathlib import Path

locale.setlocale(locale.LC_ALL, "C.UTF-8")

_HERE = Path(__file__).resolve().parent
_CUSTOM = _HERE.parent / "vllm_custom"
_BASE = Path(os.environ.get("NULL_ENGINE_BASE") or _HERE.parent / "vllm")
sys.path[:0] = [str(_BASE), str(_HERE)]
sys.path.append(str(_CUSTOM))

from vllm_custom.base_backend.loader import installed_vllm  # noqa: E402
from vllm_custom.base_backend.patches import apply_patches  # noqa: E402
from vllm_custom.base_backend.releases import release_name  # noqa: E402

apply_patches(_CUSTOM / "patches", release_name(_BASE) or "unknown", installed_vllm())

from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.engine.core_client import EngineCoreClient  # noqa: E402

if os.environ.get("NULL_ENGINE_RECORD"):
    NullEngine = importlib.import_module("recording_async_llm").RecordingEngine
else:
    NullEngine = importlib.import_module("null_async_llm").NullEngine
AsyncLLM.from_engine_args = NullEngine.from_engine_args
AsyncLLM.from_vllm_config = NullEngine.from_vllm_config
# What an engine that is started again is reached by.
EngineCoreClient.make_async_mp_client = staticmethod(importlib.import_module("null_async_llm").null_client)

_spec = importlib.util.spec_from_file_location("null_base_of", _BASE / "model.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["null_base_of"] = _module
_spec.loader.exec_module(_module)
TritonPythonModel = _module.TritonPythonModel
# Instances that share an engine: what is run as its host in place of vLLM's.
TritonPythonModel.engine_host_program = "null_core_host"
