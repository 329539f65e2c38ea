"""A short, repeatable part of the fuzzing; and a check that the harness finds what is planted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run

pytestmark = pytest.mark.slow

# A video takes far longer to decode than anything else takes.
RUNS = dict.fromkeys(run.NAMES, 2000) | {"video": 300, "audio": 1000}
PLANTED = """
import time
from tests.fuzz import targets, worker

kept = []

def crash(data):
    if b"crash" in data:
        raise ValueError("planted")

def grow(data):
    kept.append(b"x" * (1 << 20))

def hang(data):
    if data:
        time.sleep(600)

targets.TARGETS["url"] = {name}
worker.main("url", 500, ["-seed=1", "-timeout=2", "-rss_limit_mb={limit}", {corpus!r}])
"""


@pytest.mark.parametrize("target", run.NAMES)
def test_mutated_inputs_bring_neither_crash_nor_hang_nor_growth(target: str) -> None:
    outcome = run.fuzz(target, RUNS[target], seed=1)
    assert outcome.status == 0, outcome.log[-4000:]
    assert outcome.runs == RUNS[target]
    assert outcome.growth != "unknown"


@pytest.mark.parametrize(
    ("name", "said"), [("crash", "ValueError: planted"), ("grow", "the process grows"), ("hang", "timeout after")]
)
def test_the_harness_finds_what_is_planted(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(b"crash")
    done = subprocess.run(
        [sys.executable, "-c", PLANTED.format(name=name, corpus=str(tmp_path), limit=run.RSS_LIMIT_MIB)],
        cwd=tmp_path,
        env=run.environment() | {"PYTHONPATH": f"{run.CHECKOUT}:{run.environment()['PYTHONPATH']}"},
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert said in (done.stdout + done.stderr).decode("utf-8", "replace")


def test_every_target_has_seeds() -> None:
    assert {folder.name for folder in run.CORPUS.iterdir()} == set(run.NAMES)
    assert all(any(folder.iterdir()) for folder in run.CORPUS.iterdir())
