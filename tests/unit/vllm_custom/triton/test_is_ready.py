"""What Triton 26.06 and later ask of the class that they load: ``is_ready()``, which has to return a bool."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.support import fakes
from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from tests.support.service_harness import Model
from tools.installer.paths import BACKEND_SOURCES


def test_it_is_false_from_the_moment_that_the_engine_is_known_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fakes.pb_utils)
    monkeypatch.setattr(sys, "path", list(sys.path))  # which the module puts itself on
    spec = importlib.util.spec_from_file_location("model_of_triton", BACKEND_SOURCES / "vllm_custom/model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    with Model(FakeEngine(TEXT_ONLY)) as model:
        instance._model = model.service
        assert instance.is_ready() is True
        model.engine.die()
        assert instance.is_ready() is False, "no request was sent"
