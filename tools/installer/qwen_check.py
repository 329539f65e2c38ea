"""Is qwen-vl-utils there for the models that it is made for? Asked of the Python that serves."""

import subprocess
from pathlib import Path

from tools.installer.checks import Check, Checks, Status
from tools.installer.repository import Model

_PACKAGE = "qwen-vl-utils"
# As the backend has them (engine/vllm/qwen.py).
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
_ASK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('qwen_vl_utils') is None)"
_SECONDS = 60


def check(python: Path | str, model: Model) -> Checks:
    """A finding for a model that needs the package, or can use it; none for others."""
    required = model.parameters.get("QWEN_VL_UTILS", "").strip().lower() == "true"
    if not required and _family(model) not in FAMILIES:
        return
    name = f"{model.name}: {_PACKAGE}"
    try:
        asked = subprocess.run([str(python), "-c", _ASK], capture_output=True, timeout=_SECONDS, check=False)
    except OSError as error:
        yield Check(name, Status.WARN, f"{python} cannot be asked: {error.strerror}", "see the checks of Python")
        return
    if asked.returncode == 0:
        yield Check(name, Status.OK, "installed")
    elif required:
        found = "not installed, and QWEN_VL_UTILS is set: the model will not load"
        yield Check(name, Status.FAIL, found, f"{python} -m pip install {_PACKAGE}")
    else:
        found = "not installed: requests in Qwen's form (min_pixels, nframes, ...) will be refused"
        yield Check(name, Status.WARN, found, f"{python} -m pip install {_PACKAGE}")


def _family(model: Model) -> str:
    try:
        return str(model.hf_config.get("model_type", ""))
    except (OSError, ValueError):  # the weights are checked elsewhere
        return ""
