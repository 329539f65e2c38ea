"""What Triton and vllm_custom read in a model, asked of a Python that has what they read it with."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.installer import inspection_program
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT

_SECONDS = 300
_LIBRARY = "protobuf"


@dataclass(frozen=True)
class Inspection:
    """Of one model.

    Attributes:
        config: config.pbtxt as Triton gives it to a backend; empty where it cannot be read.
        problem: why not.
        refused: what a load of a model of vllm_custom says before it imports vLLM; None where it goes on.
    """

    config: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    refused: str | None = None


def inspect(
    folders: Sequence[Path], python: Path | str = sys.executable, backend: Path = BACKEND_SOURCES / "vllm_custom"
) -> list[Inspection]:
    """All of these models.

    Args:
        folders: of the models.
        python: that serves. Where it has no protobuf, this one is asked.
        backend: where vllm_custom lies, or will, next to the backend that it builds on.
    """
    said = ""
    for candidate in dict.fromkeys((str(python), sys.executable)):
        found, said = _ask(candidate, folders, backend)
        if found is not None:
            return found
    return [Inspection(problem=f"config.pbtxt cannot be read without {_LIBRARY}: {said}")] * len(folders)


def _ask(python: str, folders: Sequence[Path], backend: Path) -> tuple[list[Inspection] | None, str]:
    """The answers of one Python, or else its last word."""
    models = [[str(folder.absolute()), version_of(folder)] for folder in folders]
    asked = {"models": models, "backend": str(backend.absolute())}
    # As a module, since Python puts the folder of a program in front of its own modules.
    command = [python, "-m", inspection_program.__name__, json.dumps(asked)]
    sources = os.pathsep.join([str(CHECKOUT), str(BACKEND_SOURCES / "vllm_custom")])
    env = {**os.environ, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        return [Inspection(**answer) for answer in json.loads(result.stdout)], ""
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{python} does not run: {error}"
    except ValueError:
        return None, (result.stderr.strip().splitlines() or [f"{python} is not a Python interpreter"])[-1]


def version_of(folder: Path) -> str:
    """The newest version, which Triton loads by default; 1 where there is none."""
    found = [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    return str(max(found, default=1))
