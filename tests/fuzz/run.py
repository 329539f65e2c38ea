"""Mutated inputs for everything that reads what clients send as media.

    python -m tests.fuzz.run --runs 100000

Each target runs in a process of its own on the seeds in tests/fuzz/corpus, with limits on time and memory. A finding
is kept in build/fuzz and makes the exit status 1; ``--replay TARGET FILE`` runs it again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CORPUS = CHECKOUT / "tests/fuzz/corpus"
FINDINGS = CHECKOUT / "build/fuzz"
NAMES = ("reference", "url", "local", "messages", "image", "video", "audio")
HANG_SECONDS = 60
RSS_LIMIT_MIB = 4096


@dataclass(frozen=True)
class Outcome:
    """How one target ended; ``log`` is what libFuzzer and Python wrote."""

    target: str
    status: int
    log: str

    @property
    def runs(self) -> int:
        done = re.search(r"Done (\d+) runs", self.log)
        return int(done[1]) if done else 0

    @property
    def growth(self) -> str:
        found = re.search(r"memory growth: (.*) in", self.log)
        return found[1] if found else "unknown"

    @property
    def slowest_seconds(self) -> int:
        found = re.search(r"slowest_unit_time_sec:\s+(\d+)", self.log)
        return int(found[1]) if found else HANG_SECONDS


def fuzz(target: str, runs: int, seed: int) -> Outcome:
    """Run one target on its seeds and on mutations of them, ``runs`` inputs in all. ``seed`` is not 0."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vllm_custom_fuzz_") as grown:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.worker", target, str(runs)),
                *(f"-seed={seed}", f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={RSS_LIMIT_MIB}"),
                *("-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={FINDINGS / target}-"),
                *(grown, str(CORPUS / target)),
            ],
            cwd=CHECKOUT,
            env=environment(),
            capture_output=True,
            check=False,
        )
    return Outcome(target, done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace"))


def environment() -> dict[str, str]:
    """The caller's, with the backend's package on the path."""
    paths = [str(CHECKOUT / "backends/vllm_custom"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs; 0 a new one each time")
    parser.add_argument("--target", choices=NAMES, action="append", help="only this one; may be given several times")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="run one input and end")
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(*arguments.replay)
    failed = False
    for name in arguments.target or NAMES:
        outcome = fuzz(name, arguments.runs, arguments.seed)
        failed |= outcome.status != 0
        print(
            f"{name:10} {'ok' if outcome.status == 0 else 'FOUND SOMETHING'}: {outcome.runs} inputs, "
            f"slowest {outcome.slowest_seconds} s, memory growth {outcome.growth}",
            flush=True,
        )
        if outcome.status:
            print(outcome.log[-4000:])
    return int(failed)


def replay(target: str, file: str) -> int:
    """One input without libFuzzer, for a debugger."""
    code = "import sys; from tests.fuzz import targets; print(targets.run(sys.argv[1], open(sys.argv[2], 'rb').read()))"
    return subprocess.run(
        [sys.executable, "-c", code, target, file], cwd=CHECKOUT, env=environment(), check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
