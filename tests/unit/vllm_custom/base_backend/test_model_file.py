"""model.py, which Triton imports once to complete config.pbtxt and once to serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.installer.paths import CHECKOUT

BACKEND = CHECKOUT / "backends/vllm_custom"
_IMPORT = """
import importlib.util, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert callable(module.TritonPythonModel.auto_complete_config)
print(*sorted(name for name in ("vllm", "torch", "transformers", "vllm_custom_upstream_model") if name in sys.modules))
"""


def test_completing_a_configuration_needs_neither_vllm_nor_a_base(tmp_path: Path) -> None:
    """Without a vLLM backend beside this one, VLLM_BACKEND_DIR in config.pbtxt had no effect: the import failed."""
    alone = tmp_path / "vllm_custom"
    alone.mkdir()
    (alone / "model.py").write_text((BACKEND / "model.py").read_text())
    (alone / "vllm_custom").symlink_to(BACKEND / "vllm_custom")
    done = subprocess.run(
        [sys.executable, "-I", "-c", _IMPORT, str(alone / "model.py")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
