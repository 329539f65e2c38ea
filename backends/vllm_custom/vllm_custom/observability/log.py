"""What is used of Triton's log."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """``pb_utils.Logger``, as far as it is used."""

    def log_info(self, message: str) -> None: ...
    def log_warn(self, message: str) -> None: ...
    def log_error(self, message: str) -> None: ...
