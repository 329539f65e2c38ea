"""Only the last process that has a set of series may delete it: Triton frees them for all."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vllm_custom.kernel.metrics import Family, MetricReporter
from vllm_custom.kernel.series import SeriesHolders

LABELS = {"model": "m", "version": "1"}
OTHER = """
import sys
from pathlib import Path
from vllm_custom.kernel.series import SeriesHolders
SeriesHolders(Path(sys.argv[1]), "n").join()
print("joined", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"vllm_custom_0_series_{os.getpid()}_{born(os.getpid())}"


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the series as well."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "joined\n"
        yield made
        made.kill()


def born(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def joined(folder: Path, name: str = "n") -> SeriesHolders:
    made = SeriesHolders(folder, name)
    made.join()
    return made


def leaves_alone(holders: SeriesHolders) -> bool:
    with holders.deleting(leave=True) as alone:
        return alone


def test_the_last_of_several_deletes_and_nothing_is_left(folder: Path) -> None:
    holders = [joined(folder) for _ in range(3)]
    with holders[0].deleting() as alone:
        assert not alone
    assert [leaves_alone(each) for each in holders] == [False, False, True]
    assert not folder.exists()
    assert not leaves_alone(holders[0]), "it has left"


def test_of_those_that_leave_at_once_one_is_the_last(folder: Path) -> None:
    for _ in range(30):
        holders = [joined(folder) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(leaves_alone, holders)) == [False, False, False, True]


def test_another_name_is_nobodys_business(folder: Path) -> None:
    first, second = joined(folder), joined(folder, "another")
    with first.deleting() as alone:
        assert alone
    assert leaves_alone(first)
    assert leaves_alone(second)


def test_who_comes_waits_until_they_are_deleted(folder: Path) -> None:
    first = joined(folder)
    with ThreadPoolExecutor(1) as pool, first.deleting() as alone:
        coming = pool.submit(joined, folder)
        assert alone
        assert not coming.done()
        with pytest.raises(TimeoutError):
            coming.result(0.2)
        first_is_done = True
    assert first_is_done
    with coming.result().deleting() as alone:
        assert not alone


def test_one_that_was_killed_has_none_any_more(folder: Path, other: subprocess.Popen[str]) -> None:
    holders = joined(folder)
    with holders.deleting() as alone:
        assert not alone
    other.kill()
    other.wait()
    assert leaves_alone(holders)


def test_what_killed_servers_left_is_removed(folder: Path) -> None:
    deserted = [folder.parent / f"vllm_custom_0_series_{name}" for name in (f"{os.getpid()}_1", "4194305_7")]
    for each in deserted:
        each.mkdir()
        (each / "n").touch()
    joined(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_without_a_folder_none_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "vllm_custom_0_series_1_2").touch()
    assert not leaves_alone(joined(tmp_path / "vllm_custom_0_series_1_2"))


class Metric:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels


class Kind(Metric):
    COUNTER, GAUGE, Metric = "counter", "gauge", Metric

    def __init__(self, name: str, description: str, kind: str) -> None:
        super().__init__({"name": name})


@pytest.mark.parametrize("alone", [True, False])
def test_metrics_that_others_have_too_are_kept_even_at_the_end(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pb_utils: Any = types.ModuleType("triton_python_backend_utils")
    pb_utils.MetricFamily = Kind

    def reporter() -> MetricReporter:
        families = [Family("f", "GAUGE", "A gauge.")]
        return MetricReporter(pb_utils, families, LABELS, lambda _: None, what="metrics", thread="series")

    first, *others = [reporter() for _ in range(1 if alone else 2)]
    made: list[Any] = []
    renewed: list[bool] = []
    for each in (first, *others):
        each.submit(lambda each=each: made.append(weakref.ref(each.metric("f")))).result(10)
    if not alone:
        first.submit(lambda: renewed.append(first.renew("f"))).result(10)
        assert renewed == [False]
    first.close()
    gc.collect()
    assert (made[0]() is None) == alone
    for each in others:
        each.close()
    gc.collect()
    assert made[-1]() is None
    assert not list(tmp_path.iterdir())
