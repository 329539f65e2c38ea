"""Every module in patches/ has what the loader asks of it, and is described in patches/README.md."""

import importlib
import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest

from patches import v0_metrics
from tools.installer.paths import CHECKOUT
from vllm_custom.base_backend.releases import release_names

PATCHES = CHECKOUT / "patches"
NAMES = sorted(path.stem for path in PATCHES.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture(params=NAMES)
def patch(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"patches.{request.param}")


def test_it_has_the_form_of_a_patch(patch: ModuleType) -> None:
    assert patch.__name__ == f"patches.{patch.NAME}"
    assert isinstance(patch.BEFORE_VLLM, bool)
    assert list(inspect.signature(patch.applies).parameters) == ["upstream", "vllm_version"]
    assert not inspect.signature(patch.apply).parameters


def test_it_says_what_breaks_without_it(patch: ModuleType) -> None:
    assert "What breaks: " in (patch.__doc__ or "")


def test_the_readmes_table_names_each_patch_once() -> None:
    rows = [line.split("`")[1] for line in (PATCHES / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == NAMES


@pytest.mark.parametrize("name", ["engine_builder", "stat_logger_record"])
def test_the_releases_that_a_patch_names_are_ones_that_the_backend_may_find(name: str) -> None:
    """A range that gets another text in releases.py would switch the patch off without a word."""
    assert set(importlib.import_module(f"patches.{name}").RELEASES) <= release_names()


def test_v0_metrics_is_for_the_releases_up_to_r25_09() -> None:
    """It goes by the beginning of the name."""
    named = {name for name in release_names() if name.startswith(v0_metrics.RELEASES)}
    for start in v0_metrics.RELEASES:
        assert any(name.startswith(start) for name in named), start
    later = {name for name in release_names() if name.removeprefix("official ") >= "r25.10"} - {"unknown", "stand-in"}
    assert named == release_names() - later - {"stand-in"}


def test_v0_metrics_finds_the_buckets_where_vllm_0_20_2_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module named 'vllm.v1.metrics.buckets': an unknown release did not load on vLLM 0.20.2."""
    for name in ("vllm", "vllm.v1", "vllm.v1.engine", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    loggers = SimpleNamespace(build_1_2_5_buckets=lambda limit: [limit])
    engine = type("AsyncLLM", (), {})
    monkeypatch.setitem(sys.modules, "vllm.config", SimpleNamespace(SupportsMetricsInfo=object))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", SimpleNamespace(AsyncLLM=engine))
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", loggers)
    monkeypatch.delitem(sys.modules, "vllm.v1.metrics.buckets", raising=False)
    monkeypatch.setitem(sys.modules, "vllm.engine.metrics", None)
    v0_metrics.apply()
    assert sys.modules["vllm.engine.metrics"].build_1_2_5_buckets(7) == [7]
    assert hasattr(engine, "add_logger")
