"""What the user sees: steps with the seconds that have gone by, and errors that say how to fix them."""

import sys
import time
from pathlib import Path


class BuildError(Exception):
    """Something the user can fix: what is wrong, and what to do about it."""

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  what to do: {self.fix}" if self.fix else self.problem


class Progress:
    """Lines with the elapsed time. A line of detail is rewritten in place on a terminal, and kept rare elsewhere."""

    DETAIL_INTERVAL_SECONDS = 10.0

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._last_detail = 0.0
        self._open_line = False

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._start

    def step(self, text: str) -> None:
        self._close_line()
        print(f"[{self.elapsed_seconds:6.1f} s] {text}", file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        line = f"[{self.elapsed_seconds:6.1f} s]   {text}"
        if self._terminal:
            print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
            self._open_line = True
        elif time.monotonic() - self._last_detail >= self.DETAIL_INTERVAL_SECONDS:
            self._last_detail = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def _close_line(self) -> None:
        if self._open_line:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._open_line = False


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
