"""How several pytest processes share the tests (`-n`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scheduling import ByWhatTheyShare


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWhatTheyShare:
    return ByWhatTheyShare(config, log)
