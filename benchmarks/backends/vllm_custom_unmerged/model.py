"""vllm_custom with one response per token whatever waits: what merging is compared with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_CUSTOM = Path(__file__).resolve().parent.parent / "vllm_custom"
sys.path.append(str(_CUSTOM))

_spec = importlib.util.spec_from_file_location("vllm_custom_model", _CUSTOM / "model.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["vllm_custom_model"] = _module
_spec.loader.exec_module(_module)


class TritonPythonModel(_module.TritonPythonModel):  # type: ignore[misc,name-defined]
    """What Triton loads."""

    merge = False
