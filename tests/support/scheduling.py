"""Which tests go to one process together: those of a file, and those that share what takes long to start."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

from tools.installer.paths import CHECKOUT

# The import of vLLM in unit tests, and the two models that most tests with a server share.
_SHARED = {
    "vllm": re.compile(r"\bvllm: None\b|usefixtures\(\"vllm\"\)|\basync_llm: Any\b"),
    "null_model": re.compile(r"\bnull_model: str\b|usefixtures\(\"null_model\"\)"),
    "superset": re.compile(r"\bsuperset: str\b|usefixtures\(\"superset\"\)"),
}
_EACH_BY_ITSELF = "tests/fuzz/"


class ByWhatTheyShare(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """What takes ten seconds or thirty to start is started by one process only."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """The name of the group that a test belongs to."""
    file = nodeid.partition("::")[0]
    if file.startswith(_EACH_BY_ITSELF):
        return nodeid
    return shared_by(CHECKOUT / file) or file


def needs_vllm(file: Path) -> bool:
    """Whether unit tests of ``file`` ask for one of the fixtures that import vLLM."""
    return shared_by(file) == "vllm"


@functools.cache
def shared_by(file: Path) -> str | None:
    """What tests of ``file`` have in common with those of others, by the fixtures that they ask for."""
    text = file.read_text(encoding="utf-8")
    return next((name for name, asked in _SHARED.items() if asked.search(text)), None)
