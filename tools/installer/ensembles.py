"""Ensembles, which some builds of Triton do not have."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tools.installer import triton_options
from tools.installer.console import BuildError
from tools.installer.triton_tree import TritonTree

# The scheduler's type information, which a server that was built without ensembles does not hold.
_SCHEDULER = b"N6triton4core17EnsembleSchedulerE"
_PLATFORM = re.compile(r"""^\s*platform\s*:\s*["']ensemble["']""", re.MULTILINE)
# What Triton says when it meets one nevertheless.
REFUSED = "unexpected platform type 'ensemble'"
MISSING = f'this server was built without them: "{REFUSED}"'
FIX = "take the standard container, the vLLM container of 24.10 or later, or build with --backend=ensemble"


def has_them(server_library: Path) -> bool:
    """Whether a libtritonserver can load ensembles."""
    return _SCHEDULER in server_library.read_bytes()


def refusal(command: Sequence[str]) -> str | None:
    """What to say before a tritonserver is started that cannot load ensembles of its repository; None where it can.

    Args:
        command: the program and its options.
    """
    repositories = map(Path, triton_options.values(command, "model-repository"))
    configs = [path for repository in repositories for path in sorted(repository.glob("*/config.pbtxt"))]
    names = [path.parent.name for path in configs if _PLATFORM.search(_text_of(path))]
    library = _library_of(command[0]) if names else None
    try:
        known = library is not None and not has_them(library)
    except OSError:
        known = False
    return f"ensembles ({', '.join(names)}): {MISSING}; {FIX}" if known else None


def _text_of(config: Path) -> str:
    """Empty where it cannot be read, which is for tritonserver to say."""
    try:
        return config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _library_of(program: str) -> Path | None:
    """None where the program, a path or a name on PATH, is not that of an installation."""
    try:
        return TritonTree.of(Path(shutil.which(program) or program).resolve().parent.parent).server_library
    except BuildError:
        return None
