"""The real engine keeps the contract that the fake one promises; the last question comes after it was killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import one_process
from tools.installer.paths import CHECKOUT, DEFAULT_REPOSITORY

_SHAPES = DEFAULT_REPOSITORY / "shapes_vl/1"


async def _ask() -> None:
    """In a process of its own: vLLM leaves threads, processes and settings behind."""
    import json
    import signal

    import psutil

    from tests.support import engine_contract
    from vllm_custom.engine.vllm import VllmEngine
    from vllm_custom.runtime.tuning import without_collections

    with without_collections():
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

    given = json.loads((_SHAPES / "model.json").read_text())
    arguments = {key: value for key, value in given.items() if "lora" not in key}
    arguments["model"] = str(_SHAPES / arguments["model"])
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    try:
        engine = await VllmEngine.attach(llm)
        for promise in engine_contract.CONTRACT:
            await promise(engine)
            print("kept:", promise.__name__, flush=True)
        for process in psutil.Process().children(recursive=True):
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        while not engine.is_dead:  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.05)
        await engine_contract.after_its_death(engine)
        print("kept: after_its_death", flush=True)
    finally:
        llm.shutdown()


@pytest.mark.timeout(600)
def test_the_real_engine_keeps_the_contract() -> None:
    from tests.support import engine_contract

    paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "backends/vllm_custom")])
    env = {**os.environ, **one_process.ENVIRONMENT, "PYTHONPATH": paths, "VLLM_CPU_KVCACHE_SPACE": "1"}
    code = "import asyncio; from tests.end_to_end.test_engine_contract import _ask; asyncio.run(_ask())"
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {code}"],
        cwd=Path(CHECKOUT),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    kept = [line.removeprefix("kept: ") for line in done.stdout.splitlines() if line.startswith("kept: ")]
    wanted = [promise.__name__ for promise in engine_contract.CONTRACT]
    assert kept == [*wanted, "after_its_death"], done.stderr[-3000:]
