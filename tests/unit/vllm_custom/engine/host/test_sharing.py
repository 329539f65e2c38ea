"""Which instances share an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_custom.contract.settings import Settings
from vllm_custom.engine.host import engine_name, fronts_of
from vllm_custom.media.metrics import CacheSizeRecord, LimitRecord, Record
from vllm_custom.serving.shares import share_of, with_all_caches


def arguments(kind: str = "MODEL", device: int = 0, **changes: str) -> dict[str, str]:
    args = {"model_name": "m", "model_version": "1", "model_instance_name": "m_0_0"}
    return args | {"model_instance_kind": kind, "model_instance_device_id": str(device)} | changes


@pytest.mark.parametrize(
    ("groups", "args", "expected"),
    [
        ([], arguments(), 1),
        ([{"kind": "KIND_MODEL", "count": 4}], arguments(), 4),
        ([{"kind": "KIND_MODEL", "count": 2}, {"kind": "KIND_MODEL", "count": 1}], arguments(), 3),
        ([{"kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}], arguments("GPU", 1), 2),
        ([{"kind": "KIND_GPU", "count": 2, "gpus": [0]}, {"kind": "KIND_GPU", "gpus": [1]}], arguments("GPU", 1), 1),
        ([{"kind": "KIND_CPU", "count": 2}], arguments("CPU"), 2),
        ([], arguments("CPU"), 1),
    ],
)
def test_instances_on_the_same_devices_are_counted(
    groups: list[dict[str, Any]], args: dict[str, str], expected: int
) -> None:
    assert fronts_of({"instance_group": groups}, args) == expected


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.safetensors").write_text("weights")
    (tmp_path / "model.json").write_text(json.dumps({"model": "weights"}))
    return tmp_path


def test_instances_of_the_same_files_find_the_same_engine(version_dir: Path) -> None:
    (version_dir / "notes.txt").write_text("not of the engine")
    first = engine_name({}, arguments(), version_dir).folder
    (version_dir / "notes.txt").unlink()
    second = engine_name({}, arguments(model_instance_name="m_0_1"), version_dir).folder
    assert first == second
    assert first.startswith("m-1-")


@pytest.mark.parametrize("file", ["model.json", "multi_lora.json", "weights/model.safetensors"])
def test_changed_files_make_another_engine(version_dir: Path, file: str) -> None:
    before = engine_name({}, arguments(), version_dir).folder
    (version_dir / file).write_text(json.dumps({"model": "weights", "dtype": "float16"}))
    assert engine_name({}, arguments(), version_dir).folder != before


@pytest.mark.parametrize("changes", [{"model_name": "n"}, {"model_version": "2"}, {"model_instance_device_id": "1"}])
def test_another_model_version_or_device_makes_another_engine(version_dir: Path, changes: dict[str, str]) -> None:
    changed = engine_name({}, arguments() | changes, version_dir)
    assert changed.folder != engine_name({}, arguments(), version_dir).folder


def test_instances_with_the_same_group_of_gpus_share_an_engine(version_dir: Path) -> None:
    config = {
        "name": "m",
        "instance_group": [{"kind": "KIND_MODEL", "count": 4}],
        "parameters": {"GPU_DEVICE_IDS": {"string_value": "0,1;2,3;0,1;2,3"}},
    }
    instances = [arguments(model_instance_name=f"m_0_{index}") for index in range(4)]
    folders = [engine_name(config, args, version_dir).folder for args in instances]
    assert folders[0] == folders[2] != folders[1] == folders[3]
    assert [fronts_of(config, args) for args in instances] == [2, 2, 2, 2]


def test_files_that_cannot_be_read_are_for_the_engine_to_refuse(tmp_path: Path) -> None:
    assert engine_name({}, arguments(), tmp_path).folder
    for content in ("[]", "{", '{"model": 5}'):
        (tmp_path / "model.json").write_text(content)
        assert engine_name({}, arguments(), tmp_path).folder


def test_names_of_models_are_safe_and_short_in_paths(tmp_path: Path) -> None:
    name = engine_name({}, arguments(model_name="a model/../" + "x" * 200), tmp_path).folder
    assert "/" not in name
    assert len(name) < 30


def test_a_front_has_its_part_of_what_a_model_may_hold() -> None:
    settings = Settings.from_model_config({"name": "m"})
    shared = share_of(settings, 3)
    assert shared.media_cache_bytes == settings.media_cache_bytes // 3
    assert (shared.media_concurrency, shared.media_fetch_concurrency) == (2, 11)
    assert shared.media_inflight_bytes == settings.media_inflight_bytes, "counted for all together"
    assert share_of(settings, 1) == settings


class Sizes:
    def set(self, amount: int) -> int:
        return 100 + amount


def test_the_size_of_the_cache_is_that_of_all_fronts() -> None:
    seen: list[Record] = []
    observe = with_all_caches(Sizes(), seen.append)
    observe(CacheSizeRecord(5))
    observe(LimitRecord("items"))
    assert seen == [CacheSizeRecord(105), LimitRecord("items")]
