"""Which unit tests go to one process together: those of a file; those that need vLLM; each of the fuzzers by itself."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

from tools.installer.paths import CHECKOUT

_NEEDS_VLLM = re.compile(r"\bvllm: None\b|usefixtures\(\"vllm\"\)|\basync_llm: Any\b")
_EACH_BY_ITSELF = "tests/fuzz/"


class ByWhatIsImported(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """A process that imports vLLM needs ten seconds for it, so only one does."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """The name of the group that a test belongs to."""
    file = nodeid.partition("::")[0]
    if file.startswith(_EACH_BY_ITSELF):
        return nodeid
    return "vllm" if needs_vllm(CHECKOUT / file) else file


@functools.cache
def needs_vllm(file: Path) -> bool:
    """Whether tests of ``file`` ask for one of the fixtures that import vLLM."""
    return _NEEDS_VLLM.search(file.read_text(encoding="utf-8")) is not None
