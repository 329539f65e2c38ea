"""vLLM is imported once, with the warnings of its own dependencies off; the tests' own are errors."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import pytest
from hypothesis import HealthCheck, settings

from tests.support.scheduling import needs_vllm
from vllm_custom.runtime.tuning import without_collections

# No test may depend on how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first, so that no process is left with it at the end: vLLM's group, then files with slow."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not needs_vllm(item.path), item.path not in slow))


@pytest.fixture(scope="session")
def vllm() -> None:
    """For the few tests that need vLLM's own types."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with warnings.catch_warnings(), without_collections():
        warnings.simplefilter("ignore")
        for module in (
            "vllm.engine.arg_utils",
            "vllm.multimodal.media.connector",
            "vllm.sampling_params",
            "vllm.v1.engine.exceptions",
        ):
            importlib.import_module(module)
