"""The examples of README.md and docs/: their commands, what they print, and why some are not run.

An example is a fence of the language bash or python. The fence of the language json or text that follows it, with
nothing between them, is what it prints; `...` there stands for anything. An example that a test cannot run has a
comment in front of it, `<!-- not run: REASON -->`, with one of REASONS.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.installer.paths import CHECKOUT

REASONS = frozenset(
    {
        "changes an installation of Triton",
        "needs an installation of Triton",
        "changes the system",
        "installs an environment and starts a server of its own",
        "installs packages",
        "needs a cluster",
        "needs a container engine",
        "needs a media server of this name",
        "needs a model with audio input",
        "needs Prometheus",
        "needs several machines",
        "needs an older openai than the tests",
        "needs the installed wheel",
        "needs weights of another model",
        "takes minutes",
        "the command that runs this test",
    }
)
# A number that an engine computed; other processors round differently.
_TOLERANCE = 1e-3
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$"
    r"(?:\n\n```(?:json|text)\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """One fence of a page."""

    page: str
    line: int
    language: str
    code: str
    output: str | None
    not_run: str | None

    @property
    def fails(self) -> bool:
        """Whether the page shows that a check fails, which the command's exit status then says as well."""
        return re.search(r"^fail ", self.output or "", re.MULTILINE) is not None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """In English; the pages in Chinese have the same examples. Those that add models come last."""
    found = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    english = [path for path in found if not path.name.endswith(".zh.md")]
    return sorted(english, key=lambda path: "../my_models" in path.read_text(encoding="utf-8"))


def examples(paths: Iterable[Path]) -> list[Example]:
    return [example for path in paths for example in read(str(path.relative_to(CHECKOUT)), path.read_text("utf-8"))]


def read(page: str, text: str) -> list[Example]:
    """The examples of a page, in order."""
    return [
        Example(
            page=page,
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            code=match["code"],
            output=match["output"],
            not_run=match["reason"],
        )
        for match in _FENCE.finditer(text)
    ]


def prints(expected: str, printed: str) -> bool:
    """Whether ``printed`` is what the page says: the same JSON, or the same text."""
    try:
        said, got = json.loads(expected), json.loads(printed)
    except ValueError:
        return _same_text(expected.strip(), printed.strip())
    return _same(said, got)


def _same(said: Any, got: Any) -> bool:
    if isinstance(said, dict) and isinstance(got, dict):
        return said.keys() == got.keys() and all(_same(said[key], got[key]) for key in said)
    if isinstance(said, list) and isinstance(got, list):
        return len(said) == len(got) and all(map(_same, said, got))
    if isinstance(said, str) and isinstance(got, str):
        return _same_text(said, got)
    if isinstance(said, float) and isinstance(got, float):
        return math.isclose(said, got, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(said) is type(got) and bool(said == got)


def _same_text(said: str, got: str) -> bool:
    pattern = ".*".join(map(re.escape, _whole(said).split("...")))
    return re.fullmatch(pattern, _whole(got), re.DOTALL) is not None


def _whole(text: str) -> str:
    """A stream in one piece, since a busy server merges tokens; and columns whatever their width."""
    events = [json.loads(line[6:])["text_output"] for line in text.splitlines() if line.startswith("data: ")]
    if events:
        return "".join(events) + ("..." if text.endswith("...") else "")
    return re.sub(r" +", " ", text.replace("|", ""))
