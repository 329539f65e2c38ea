"""Log lines as JSON: one object in each, on the process's standard error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone

_STANDARD_ERROR = 2
_PREFIX = "[vllm_custom] "


class JsonLogger:
    """``pb_utils.Logger`` for LOG_FORMAT: json. Triton's own would put a line into quotes, behind a head of its own.

    Methods may be called from any thread; each line is one write.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        """``labels``: in each line."""
        self._labels = dict(labels)

    def log_verbose(self, message: str) -> None:
        """Nothing: Triton's level of verbosity is not known here."""

    def log_info(self, message: str) -> None:
        self._message("info", message)

    def log_warn(self, message: str) -> None:
        self._message("warning", message)

    def log_error(self, message: str) -> None:
        self._message("error", message)

    def log_request(self, fields: str) -> None:
        """How a request ended; ``fields``: a JSON object."""
        self._write(f'{{"time": "{_now()}", "level": "info", "event": "request", {fields[1:]}')

    def _message(self, level: str, message: str) -> None:
        text = message.removeprefix(_PREFIX)
        self._write(json.dumps({"time": _now(), "level": level, **self._labels, "message": text}, ensure_ascii=False))

    def _write(self, line: str) -> None:
        os.write(_STANDARD_ERROR, f"{line}\n".encode("utf-8", "backslashreplace"))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
