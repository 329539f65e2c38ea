"""Each patch against what is installed: what breaks without it, and that it works with it, in processes of their own.

When the first of the two tests fails for a patch, the patch is not needed any more and can go.
"""

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass

import pytest

from tools.installer.paths import CHECKOUT

pytestmark = pytest.mark.slow

NAMES = sorted(path.stem for path in (CHECKOUT / "patches").glob("*.py") if not path.stem.startswith("_"))


@dataclass(frozen=True)
class Need:
    """What somebody does who needs the patch, and the error that it ends with otherwise."""

    upstream: str
    code: str
    error: str
    needs_vllm: bool = True


NEEDS = {
    "moved_names": Need(
        "official r25.10",
        """
        from vllm.sampling_params import GuidedDecodingParams
        from vllm.v1.metrics.loggers import StatLoggerBase, build_1_2_5_buckets
        from vllm.inputs.data import TokensPrompt
        assert build_1_2_5_buckets(20) == [1, 2, 5, 10, 20]
        assert GuidedDecodingParams(regex="a").regex == "a"
        """,
        "ImportError: cannot import name 'GuidedDecodingParams'",
    ),
    "engine_builder": Need(
        "official r25.12",
        """
        from types import SimpleNamespace
        from vllm.entrypoints.openai.api_server import build_async_engine_client_from_engine_args as build
        from vllm.v1.engine.async_llm import AsyncLLM

        async def main():
            ended = []
            engine = SimpleNamespace(shutdown=lambda: ended.append(True))
            AsyncLLM.from_engine_args = lambda arguments, stat_loggers: (arguments, stat_loggers, engine)[2]
            async with build(engine_args=None, disable_frontend_multiprocessing=True, stat_loggers=[]) as got:
                assert got is engine and not ended
            assert ended

        import asyncio
        asyncio.run(main())
        """,
        "TypeError: build_async_engine_client_from_engine_args() got an unexpected keyword argument",
    ),
    "stat_logger_record": Need(
        "official r25.11",
        """
        from vllm.v1.metrics.loggers import PerEngineStatLoggerAdapter, StatLoggerBase
        recorded = []

        class Logger(StatLoggerBase):
            def __init__(self, vllm_config, engine_index): pass
            def record(self, scheduler_stats, iteration_stats, engine_idx=0): recorded.append(iteration_stats)
            def log_engine_initialized(self): pass

        adapter = PerEngineStatLoggerAdapter(None, [0], Logger)
        adapter.record(None, "stats", mm_cache_stats=None, engine_idx=0)
        adapter.record(None, None, mm_cache_stats=None, engine_idx=0)
        assert recorded == ["stats"]
        """,
        "TypeError: Logger.record() got an unexpected keyword argument 'mm_cache_stats'",
    ),
    "v0_metrics": Need(
        "official r25.04 to r25.09",
        """
        from types import SimpleNamespace
        from vllm.engine.metrics import StatLoggerBase, Stats, SupportsMetricsInfo, build_1_2_5_buckets
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.stats import IterationStats
        seen = []

        class Logger(StatLoggerBase):
            def log(self, stats): seen.append(stats)

        manager = SimpleNamespace(stat_loggers=[])
        engine = SimpleNamespace(logger_manager=manager, vllm_config="config")
        assert AsyncLLM.engine.fget(engine).vllm_config == "config"
        AsyncLLM.add_logger(engine, "triton", Logger(local_interval=0, vllm_config="config"))
        AsyncLLM.add_logger(SimpleNamespace(logger_manager=None), "triton", None)
        (relay,) = manager.stat_loggers
        iteration = IterationStats()
        iteration.num_generation_tokens = 3
        iteration.time_to_first_tokens_iter = [0.5]
        iteration.finished_requests = [SimpleNamespace(e2e_latency=2.0, num_prompt_tokens=7, num_generation_tokens=3)]
        relay.record(None, iteration, mm_cache_stats=None, engine_idx=0)
        relay.record(None, None, mm_cache_stats=None, engine_idx=0)
        (stats,) = seen
        assert isinstance(stats, Stats)
        assert stats.num_generation_tokens_iter == 3 and stats.time_to_first_tokens_iter == [0.5]
        assert (stats.time_e2e_requests, stats.num_prompt_tokens_requests) == ([2.0], [7])
        assert stats.num_generation_tokens_requests == [3] and stats.best_of_requests == []
        """,
        "ModuleNotFoundError: No module named 'vllm.engine.metrics'",
    ),
    "stub_locale": Need(
        "stand-in",
        """
        from pathlib import Path
        import os
        assert Path(os.environ["TEXT"]).read_text() == "\\u63cf"
        """,
        "UnicodeDecodeError: 'ascii' codec",
        needs_vllm=False,
    ),
    "torchvision_ops": Need(
        "stand-in",
        """
        import torchvision
        """,
        "RuntimeError: operator torchvision::nms does not exist",
    ),
}


# Importing vLLM takes seconds: patches that do not touch each other share a process.
GROUPS = (("stub_locale",), ("torchvision_ops",), ("moved_names", "engine_builder", "stat_logger_record", "v0_metrics"))
RUN = """
import importlib, json, sys
if "stub_locale" not in sys.argv:  # vLLM cannot be imported in the C locale
    import locale
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
for name in sys.argv[2:]:
    upstream, code = json.loads(sys.argv[1])[name]
    if PATCHED:
        patch = importlib.import_module(f"patches.{name}")
        assert patch.applies(upstream, ""), name
        patch.apply()
        patch.apply()
outcomes = {}
for name in sys.argv[2:]:
    try:
        exec(json.loads(sys.argv[1])[name][1], {"__name__": name})
        outcomes[name] = "served"
    except Exception as error:
        outcomes[name] = f"{type(error).__name__}: {error}"
print(json.dumps(outcomes))
"""


@functools.cache
def outcomes(group: tuple[str, ...], *, patched: bool) -> dict[str, str]:
    """What each piece of code ends with, in the C locale and without Python's own ways out of it (PEP 538, PEP 540)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    paths = os.pathsep.join([str(CHECKOUT), *(path for path in sys.path if path.endswith("site-packages"))])
    # An installed environment runs torchvision_ops from a .pth file, which -S leaves out.
    options = ["-S"] if "torchvision_ops" in group else []
    codes = json.dumps({name: (NEEDS[name].upstream, textwrap.dedent(NEEDS[name].code)) for name in group})
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as text:
        text.write("描")
        text.flush()
        result = subprocess.run(
            [sys.executable, *options, "-X", "utf8=0", "-c", f"PATCHED = {patched}\n{RUN}", codes, *group],
            env=kept | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "TEXT": text.name, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_each_patch_has_its_need() -> None:
    assert sorted(NEEDS) == NAMES == sorted(name for group in GROUPS for name in group)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if NEEDS[request.param].needs_vllm and importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM")
    if request.param == "torchvision_ops" and not _torch_is_a_cpu_build():
        pytest.skip("needs the CPU build of torch")
    return str(request.param)


@pytest.fixture
def group(name: str) -> tuple[str, ...]:
    return next(group for group in GROUPS if name in group)


def test_without_the_patch_it_breaks(name: str, group: tuple[str, ...]) -> None:
    outcome = outcomes(group, patched=False)[name]
    assert outcome != "served", f"{name} is not needed any more with what is installed: drop it"
    assert NEEDS[name].error in outcome


def test_with_the_patch_it_works(name: str, group: tuple[str, ...]) -> None:
    assert outcomes(group, patched=True)[name] == "served"


@pytest.mark.parametrize("name", ["moved_names", "engine_builder", "stat_logger_record", "v0_metrics"])
def test_our_stand_in_needs_none_of_those_for_official_releases(name: str) -> None:
    assert importlib.import_module(f"patches.{name}").applies("stand-in", "0.32.0") is False


def _torch_is_a_cpu_build() -> bool:
    from importlib.metadata import version

    return version("torch").endswith("+cpu")
