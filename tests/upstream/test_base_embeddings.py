"""Embeddings on the vLLM backend in VLLM_BACKEND_DIR: its own release may not know them, and need not."""

from __future__ import annotations

import os

import pytest

from tests.end_to_end.test_pooling_models import TestEmbeddings, embed_model, expected, hidden

__all__ = ["TestEmbeddings", "embed_model", "expected", "hidden"]

if "VLLM_BACKEND_DIR" not in os.environ:
    pytest.skip(
        "NOT RUN: set VLLM_BACKEND_DIR to the official backend's folder with model.py to test on it",
        allow_module_level=True,
    )

pytestmark = [pytest.mark.server, pytest.mark.engine]
