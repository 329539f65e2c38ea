"""Which GPUs an instance gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_custom.errors import ConfigError
from vllm_custom.kernel import devices

TWO = {"tensor_parallel_size": 2}


def config(ids: str | None = None, *groups: dict[str, Any]) -> dict[str, Any]:
    parameters = {} if ids is None else {"GPU_DEVICE_IDS": {"string_value": ids}}
    return {"name": "m", "instance_group": list(groups), "parameters": parameters}


def instance(kind: str = "MODEL", name: str = "m_0_0", device: int = 0) -> dict[str, str]:
    args = {"model_name": "m", "model_instance_kind": kind, "model_instance_name": name}
    return args | {"model_instance_device_id": str(device)}


def visible(
    model_config: dict[str, Any], args: dict[str, str], arguments: dict[str, Any], inherited: str | None = None
) -> str | None:
    chosen = devices.devices_of(model_config, args, arguments, inherited)
    return None if chosen is None else chosen.visible


@pytest.fixture(autouse=True)
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What NVIDIA's driver says of the machine; the folder is not there, as without a driver."""
    folder = tmp_path / "gpus"
    monkeypatch.setattr(devices, "_DRIVER", folder)
    return folder


def has_gpus(driver: Path, count: int) -> None:
    for number in range(count):
        (driver / f"0000:00:{number:02x}.0").mkdir(parents=True)


def test_without_the_parameter_a_model_gets_what_tritonserver_sees() -> None:
    assert visible(config(None, {"kind": "KIND_MODEL"}), instance(), TWO, "2,3") is None
    assert visible(config(None, {"kind": "KIND_CPU"}), instance("CPU"), {}) is None


@pytest.mark.parametrize("count", [1, 2])
def test_one_group_is_for_all_instances(count: int) -> None:
    """As in the official backend since 26.05, whose own tests give a model "0,1" or "1"."""
    one = config("0, 1", {"kind": "KIND_MODEL", "count": count})
    assert visible(one, instance(name=f"m_0_{count - 1}"), TWO) == "0,1"
    assert visible(config("1", {"kind": "KIND_MODEL"}), instance(), {}) == "1"


def test_each_instance_gets_its_group() -> None:
    model = config("0,1;2,3;4,5", {"kind": "KIND_MODEL", "count": 2, "name": "a"}, {"kind": "KIND_MODEL"})
    got = [visible(model, instance(name=name), TWO) for name in ("a_0", "a_1", "m_1_0")]
    assert got == ["0,1", "2,3", "4,5"]


def test_instances_on_gpus_of_triton_get_their_groups() -> None:
    """Triton gives all GPUs of a group of instances the same name."""
    model = config("0,1;2,3", {"kind": "KIND_GPU", "gpus": [0, 1]})
    assert [visible(model, instance("GPU", device=device), TWO) for device in (0, 1)] == ["0,1", "2,3"]


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [("4,5,6,7", "6,7"), ("GPU-7f, GPU-8a,GPU-9b,MIG-1c", "GPU-9b,MIG-1c"), ("", "2,3"), (None, "2,3")],
)
def test_numbers_count_within_what_tritonserver_sees(inherited: str | None, expected: str) -> None:
    model = config("0,1;2,3", {"kind": "KIND_MODEL", "count": 2})
    assert visible(model, instance(name="m_0_1"), TWO, inherited) == expected


@pytest.mark.parametrize(
    ("number", "inherited", "expected"),
    [(3, None, "3"), (3, "", "3"), (1, "2,3", "3"), (0, "GPU-7f, GPU-8a", "GPU-7f")],
)
def test_a_gpu_of_triton_counts_within_what_tritonserver_sees(
    number: int, inherited: str | None, expected: str
) -> None:
    """Under CUDA_VISIBLE_DEVICES=2,3 Triton's GPU 1 is the machine's 3; the engine went to GPU 1."""
    assert visible(config(), instance("GPU", device=number), {}, inherited) == expected


def test_gpus_that_tritonserver_does_not_see() -> None:
    with pytest.raises(ConfigError, match=r"instance_group\.gpus: expected 0 to 1 .*CUDA_VISIBLE_DEVICES=2,3.*got 2"):
        visible(config(), instance("GPU", device=2), {}, "2,3")
    with pytest.raises(ConfigError, match=r"GPU_DEVICE_IDS: expected 0 to 1 .*CUDA_VISIBLE_DEVICES=2,3.*got 2"):
        visible(config("2"), instance(), {}, "2,3")


@pytest.mark.parametrize("ids", ["4", "7", "3,4"])
def test_gpus_that_the_machine_does_not_have(driver: Path, ids: str) -> None:
    has_gpus(driver, 4)
    arguments = {"tensor_parallel_size": len(ids.split(","))}
    said = rf"GPU_DEVICE_IDS: expected 0 to 3 \(this machine has 4 GPUs\), got {ids[-1]}"
    with pytest.raises(ConfigError, match=said):
        visible(config(ids), instance(), arguments)
    with pytest.raises(ConfigError, match=r"instance_group\.gpus: expected 0 to 3 .*got 5"):
        visible(config(), instance("GPU", device=5), {})
    assert visible(config("3"), instance(), {}) == "3"


@pytest.mark.parametrize(
    ("arguments", "inherited", "seen"),
    [
        ({"tensor_parallel_size": 8}, None, 4),
        ({"data_parallel_size": 8}, "", 4),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, "2,3", 2),
    ],
)
def test_more_gpus_than_there_are(driver: Path, arguments: dict[str, Any], inherited: str | None, seen: int) -> None:
    has_gpus(driver, 4)
    with pytest.raises(ConfigError, match=rf"model\.json: expected at most {seen} GPUs, .*data_parallel_size"):
        visible(config(), instance(), arguments, inherited)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tensor_parallel_size": 4},
        {"data_parallel_size": 8, "data_parallel_size_local": 4},
        {"tensor_parallel_size": 8, "nnodes": 2},
        {"tensor_parallel_size": 8, "distributed_executor_backend": "ray"},
        {"data_parallel_size": 8, "data_parallel_address": "node-0"},
    ],
)
def test_gpus_of_other_machines_are_not_counted(driver: Path, arguments: dict[str, Any]) -> None:
    has_gpus(driver, 4)
    assert visible(config(), instance(), arguments) is None


def test_several_gpus_need_the_kind_model_or_groups() -> None:
    with pytest.raises(ConfigError, match=r"expected KIND_MODEL, got KIND_GPU.*GPU_DEVICE_IDS says which"):
        visible(config(None, {"kind": "KIND_GPU"}), instance("GPU"), TWO)


@pytest.mark.parametrize("ids", ["abc", " ", "-1", "0,", "0;", "0x1", "٣", "0,1,;2"])
def test_what_is_no_list_of_gpus(ids: str) -> None:
    with pytest.raises(ConfigError, match=r"GPU_DEVICE_IDS: group \d: expected numbers of GPUs such as 0,1"):
        devices.groups_of(config(ids))


def test_a_gpu_that_is_named_twice() -> None:
    with pytest.raises(ConfigError, match=r"group 2: expected each GPU once, got '2,2'"):
        devices.groups_of(config("0,1;2,2", {"count": 2}))


def test_groups_are_as_many_as_instances() -> None:
    with pytest.raises(ConfigError, match=r"one group of GPUs for each instance .*\(3\), or one for all, got 2 groups"):
        devices.groups_of(config("0;1", {"count": 2}, {"count": 1}))


@pytest.mark.parametrize(
    ("arguments", "ids", "words"),
    [
        (TWO, "0", r"group 1: expected 2 GPUs, as model\.json asks for .*got 1 \(0\)"),
        ({}, "0,1", r"group 1: expected 1 GPUs"),
        (TWO, "0,1;2", r"group 2: expected 2 GPUs.*got 1 \(2\)"),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": "2"}, "0,1", "expected 4 GPUs"),
        ({"data_parallel_size": 2}, "0", "expected 2 GPUs"),
    ],
)
def test_a_group_has_the_gpus_of_one_engine(arguments: dict[str, Any], ids: str, words: str) -> None:
    groups = [{"count": ids.count(";") + 1}]
    with pytest.raises(ConfigError, match=words):
        devices.check(config(ids, *groups), arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": "3"}, 6),
        ({"data_parallel_size": 4, "data_parallel_size_local": 2, "tensor_parallel_size": 2}, 4),
        ({"tensor_parallel_size": 8, "nnodes": 2}, 4),
        ({"tensor_parallel_size": None}, 1),
    ],
)
def test_the_gpus_of_an_engine_on_this_machine_are_counted(arguments: dict[str, Any], expected: int) -> None:
    assert devices.device_count(arguments) == expected


def test_a_size_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"model\.json: tensor_parallel_size: expected a positive integer, got 'two'"):
        devices.device_count({"tensor_parallel_size": "two"})


def test_the_log_has_the_words_that_the_official_tests_look_for() -> None:
    chosen = devices.devices_of(config("1"), instance(), {}, "4,5")
    assert chosen is not None
    assert chosen.reason.startswith("Detected KIND_MODEL instance with GPU_DEVICE_IDS specified")
    assert chosen.reason.endswith("GPUs 1, CUDA_VISIBLE_DEVICES=5")


@pytest.mark.parametrize(
    ("arguments", "there"),
    [
        (TWO, 1),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, 3),
        ({"tensor_parallel_size": 8, "nnodes": 2}, 2),
    ],
)
def test_more_gpus_than_there_are_are_refused(arguments: dict[str, Any], there: int) -> None:
    wanted = devices.device_count(arguments)
    devices.check_enough(arguments, wanted)
    with pytest.raises(ConfigError, match=rf"tensor_parallel_size.*: expected at most {there} GPUs.*, got {wanted};"):
        devices.check_enough(arguments, there)


def test_data_parallel_engines_have_the_same_numa_nodes() -> None:
    devices.check_enough_memory_nodes({"data_parallel_size": 4}, 1)
    with pytest.raises(ConfigError, match=r"tensor_parallel_size: expected at most 1, .*nobind"):
        devices.check_enough_memory_nodes({"data_parallel_size": 4, **TWO}, 1)
