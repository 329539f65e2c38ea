"""vLLM is imported once, with the warnings of its own dependencies off; the tests' own are errors."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="session")
def async_llm() -> Any:
    """vLLM's class of this name."""
    pytest.importorskip("vllm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("vllm.transformers_utils.config")
        return importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
