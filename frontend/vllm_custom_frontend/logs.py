"""Where log lines go, and in which form: text, or one JSON object in each line."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

TEXT, JSON = "text", "json"
# What a record carries in addition to its message.
FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """One object per record: its ``fields``, if it has some, in place of its message."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        head = {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name}
        fields = getattr(record, FIELDS, None)
        line = {**head, **(fields if fields is not None else {"message": record.getMessage()})}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def begin(log_format: str, level: str = "info") -> None:
    """Let this process's log lines of ``level`` and above go to its standard error."""
    handler = logging.StreamHandler()
    if log_format == JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
