"""vLLM is imported once, with the warnings of its own dependencies off; the tests' own are errors."""

import importlib
import importlib.util
import warnings

import pytest
from hypothesis import HealthCheck, settings

# No test may depend on how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def vllm() -> None:
    """For the few tests that need vLLM's own types."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (
            "vllm.engine.arg_utils",
            "vllm.multimodal.media.connector",
            "vllm.sampling_params",
            "vllm.v1.engine.exceptions",
        ):
            importlib.import_module(module)
