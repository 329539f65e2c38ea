"""The null engine behind a real tritonserver: what has reached it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.servers import NULL_BASE, wait_until

# Tokens of a stream, one in so many milliseconds.
INTERVAL_MS = 5


class Records:
    """What the engine wrote down of each request (benchmarks/backends/null_base/recording_async_llm.py)."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def begun(self, request_id: str) -> dict[str, Any]:
        """What the engine was given with a request; waits for it."""
        wait_until(lambda: self._find(request_id, "begins") is not None)
        found = self._find(request_id, "begins")
        assert found is not None
        return found

    def has_begun(self, request_id: str) -> bool:
        return self._find(request_id, "begins") is not None

    def finished(self, request_id: str) -> bool:
        """Whether a request came to its own end, and was not aborted; waits for either."""
        wait_until(lambda: self._find(request_id, "ends") is not None)
        found = self._find(request_id, "ends")
        assert found is not None
        return bool(found["finished"])

    def _find(self, request_id: str, event: str) -> dict[str, Any] | None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        for line in lines:
            record: dict[str, Any] = json.loads(line)
            if record["event"] == event and record["id"].startswith(request_id):
                return record
        return None


def environment(base: str | None, backends: Path, records: Records) -> dict[str, str]:
    """Variables for a tritonserver whose models all build on the null engine.

    Args:
        base: the folder of the vLLM backend below it; the stand-in where it is empty.
        backends: the server's folder of backends.
        records: where the engine writes.
    """
    found = {
        "VLLM_BACKEND_DIR": str(backends / NULL_BASE.name),
        "NULL_ENGINE_RECORD": str(records.file),
        "NULL_ENGINE_INTERVAL_MS": str(INTERVAL_MS),
    }
    return found | ({"NULL_ENGINE_BASE": str(Path(base).resolve())} if base else {})
