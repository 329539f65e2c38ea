"""A pretended environment: folders and names as the real one has them, nothing in them."""

import json
from pathlib import Path

import pytest

from tools.installer.environment import Environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    folder = tmp_path / "env-cpu-py311-0123456789ab"
    site = folder / "lib/python3.11/site-packages"
    triton = site / "pytriton/tritonserver"
    for place in ("bin", "backends/python", "python_backend_stubs/3.11", "caches/local"):
        (triton / place).mkdir(parents=True)
    (triton / "bin/tritonserver").touch(mode=0o755)
    (triton / "backends/python/libtriton_python.so").write_text("library")
    (triton / "backends/python/triton_python_backend_utils.py").write_text("utils")
    (triton / "python_backend_stubs/3.11/triton_python_backend_stub").write_text("stub")
    (folder / "bin").mkdir()
    (folder / "bin/python").touch(mode=0o755)
    made = Environment(folder, "cpu")
    facts = {
        "flavour": "cpu",
        "python": "3.11.9",
        "libpython": "/opt/python/lib/libpython3.11.so.1.0",
        "torch": "CPU build",
    }
    made.marker.write_text(json.dumps(facts))
    return made
