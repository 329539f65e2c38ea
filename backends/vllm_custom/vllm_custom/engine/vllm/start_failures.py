"""Why an engine did not start, in its own words.

vLLM says only that one of an engine's processes has ended; the reason is in the log alone. So each
process of the engine leaves the first error that it logs in a file, if there is none yet: what ends a worker ends the
engine core as well, which knows less.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from vllm_custom.errors import root_cause
from vllm_custom.kernel.orphans import SOCKETS_VARIABLE

# The modules of vLLM whose processes log the error that they end with.
_LOGGERS = ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")
# Names the file to the processes that are started from now on.
_VARIABLE = "TRITON_VLLM_CUSTOM_START_FAILURE"  # vLLM warns of unknown names that begin like its own
# How vLLM names processes that have ended by a signal.
_KILLED = re.compile(r"'(\w+)': -(\d+)")


def expect_failure() -> None:
    """In the process that is about to start an engine."""
    os.environ.pop(_VARIABLE, None)
    if folder := os.environ.get(SOCKETS_VARIABLE):  # else it could not be made
        file = Path(folder, f"start_failure_{os.getpid()}")
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
            os.environ[_VARIABLE] = str(file)


def note_failure() -> None:
    """In a process of the engine, before vLLM's program."""
    if file := os.environ.get(_VARIABLE):
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_Note(Path(file)))


def start_failure(error: BaseException) -> str | None:
    """Why the engine did not start, where more is known than vLLM says.

    Args:
        error: with which vLLM said so.
    """
    if file := os.environ.get(_VARIABLE):
        with contextlib.suppress(OSError):
            return Path(file).read_text(encoding="utf-8")
    if killed := _KILLED.search(str(error)):
        name, number = killed.groups()
        memory = ", as Linux does where memory is short" if number == "9" else ""
        return f"its process {name} was killed by signal {number}{memory}"
    return None


class _Note(logging.Filter):
    """Writes the first error of all processes that have the same file.

    It lets everything through. A handler would go when vLLM, in its own program, configures its loggers.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.levelno >= logging.ERROR:
            with contextlib.suppress(OSError), self._file.open("x", encoding="utf-8") as file:
                file.write(f"{type(error).__name__}: {root_cause(error)}")
        return True
