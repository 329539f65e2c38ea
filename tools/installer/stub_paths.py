"""Paths from which Triton can start a model's process: it puts them into the command of a shell as they are."""

import re
from collections.abc import Iterable
from pathlib import Path

FIX = "use a path without spaces and signs of a shell: Triton starts models by one, without quoting"
_PLAIN = re.compile(r"[\w./@%+=:,-]+")


def unusable(paths: Iterable[Path]) -> list[str]:
    """Those that a shell would take apart; ``paths`` are as Triton is told, which follows no links in them."""
    return [str(path) for path in paths if not _PLAIN.fullmatch(str(path))]
