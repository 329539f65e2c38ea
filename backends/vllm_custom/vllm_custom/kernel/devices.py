"""Which GPUs an instance of a model gets: from instance_group, or from GPU_DEVICE_IDS of config.pbtxt.

Both count within what tritonserver itself sees (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, shorten
from .model_files import ENGINE_ARGS_FILE, size_of

VARIABLE = "CUDA_VISIBLE_DEVICES"
PARAMETER = "GPU_DEVICE_IDS"
_ABOUT = f"config.pbtxt: parameter {PARAMETER}"
_ENGINE_SIZES = ("tensor_parallel_size", "pipeline_parallel_size")
# Of NVIDIA's driver: an entry for each GPU, in a container for those that it was given.
_DRIVER = Path("/proc/driver/nvidia/gpus")
# Engine arguments with which some of the GPUs may be another machine's.
_RAY = ("distributed_executor_backend", "data_parallel_backend")
_ELSEWHERE = ("data_parallel_address", "data_parallel_rank", "data_parallel_external_lb", "data_parallel_hybrid_lb")

Group = tuple[int, ...]


@dataclass(frozen=True)
class Devices:
    """``visible`` is what CUDA_VISIBLE_DEVICES has to be; ``reason`` says why, for the log."""

    visible: str
    reason: str


def read_groups(text: str) -> tuple[Group, ...]:
    """GPU_DEVICE_IDS: groups between semicolons, numbers between commas.

    Raises:
        ConfigError: names the group and what is wrong with it.
    """
    return tuple(_read_group(number, part) for number, part in enumerate(text.split(";"), start=1))


def groups_of(model_config: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups of GPUs that Triton's ``model_config`` gives; none without the parameter.

    Raises:
        ConfigError: they are not such, or neither one nor as many as there are instances.
    """
    parameters = model_config.get("parameters", {})
    if PARAMETER not in parameters:
        return ()
    groups = read_groups(str(parameters[PARAMETER].get("string_value", "")))
    instances = sum(1 for _ in _instances(model_config)) or 1
    if len(groups) not in (1, instances):
        raise ConfigError(
            f"{_ABOUT}: expected one group of GPUs for each instance that instance_group counts ({instances}), or one "
            f"for all, got {len(groups)} groups"
        )
    return groups


def group_of(model_config: Mapping[str, Any], args: Mapping[str, str]) -> Group | None:
    """The group of one instance, the i-th for the i-th of instance_group; None without GPU_DEVICE_IDS.

    Args:
        model_config: of Triton.
        args: of Triton's ``initialize``.

    Raises:
        ConfigError: as :func:`groups_of`.
    """
    groups = groups_of(model_config)
    if len(groups) < 2:
        return groups[0] if groups else None
    return groups[_index(model_config, args)]


def sharers(model_config: Mapping[str, Any], args: Mapping[str, str]) -> int:
    """How many instances, this one included, are on the same GPUs.

    Raises:
        ConfigError: as :func:`groups_of`.
    """
    group = group_of(model_config, args)
    instances = list(_instances(model_config))
    if group is not None:
        groups = groups_of(model_config)
        return len(instances) or 1 if len(groups) == 1 else groups.count(group)
    kind, device = f"KIND_{args['model_instance_kind']}", int(args["model_instance_device_id"])
    same = [gpu for _, its_kind, gpu in instances if its_kind in (kind, "") and gpu in (None, device)]
    return max(1, len(same))


def device_count(arguments: Mapping[str, Any]) -> int:
    """How many GPUs of this machine the engine arguments ask for.

    Raises:
        ConfigError: a size is not a positive integer.
    """
    count = 1
    for key in _ENGINE_SIZES:
        count *= size_of(arguments, key)
    local = "data_parallel_size_local"
    count *= size_of(arguments, local if arguments.get(local) else "data_parallel_size")
    return max(1, count // size_of(arguments, "nnodes"))


def check(model_config: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """What can be wrong with GPU_DEVICE_IDS, for all instances.

    Raises:
        ConfigError: names the group.
    """
    for number, group in enumerate(groups_of(model_config), start=1):
        if len(group) != (expected := device_count(arguments)):
            raise ConfigError(
                f"{_ABOUT}: group {number}: expected {expected} GPUs, as {ENGINE_ARGS_FILE} asks for "
                f"({', '.join(_ENGINE_SIZES)}, data_parallel_size), got {len(group)} ({_listed(group)})"
            )


def check_enough(arguments: Mapping[str, Any], there: int) -> None:
    """Compare the engine arguments with the number of GPUs that the engine can have on this node.

    Raises:
        ConfigError: there are too few.
    """
    if (wanted := device_count(arguments)) > there:
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: {_sizes(arguments)}: expected at most {there} GPUs, as many as this node has for "
            f"the engine, got {wanted}; an engine on more nodes has nnodes, or Ray"
        )


def check_enough_memory_nodes(arguments: Mapping[str, Any], there: int) -> None:
    """The same for vLLM's CPU build, which binds each worker of an engine to a NUMA node of its own.

    Raises:
        ConfigError: there are too few.
    """
    one = {**arguments, "data_parallel_size": 1, "data_parallel_size_local": None}
    if (wanted := device_count(one)) > there:
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: {_sizes(one)}: expected at most {there}, the number of this node's NUMA nodes, to "
            f"each of which vLLM binds a worker, got {wanted}; VLLM_CPU_OMP_THREADS_BIND of tritonserver's environment "
            "says otherwise: nobind, or cores such as 0-3|4-7"
        )


def devices_of(
    model_config: Mapping[str, Any], args: Mapping[str, str], arguments: Mapping[str, Any], inherited: str | None
) -> Devices | None:
    """The GPUs of one instance; None where it takes those that tritonserver sees.

    Args:
        model_config: of Triton.
        args: of Triton's ``initialize``.
        arguments: of the engine.
        inherited: tritonserver's CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: what config.pbtxt says does not fit model.json, or tritonserver does not see such a GPU.
    """
    group = group_of(model_config, args)
    if group is not None:
        check(model_config, arguments)
        visible = ",".join(visible_device(number, inherited, _ABOUT) for number in group)
        # The first words are those of the official backend, whose own tests look for them.
        kind = f"KIND_{args['model_instance_kind']}"
        reason = f"Detected {kind} instance with {PARAMETER} specified: GPUs {_listed(group)}"
        return Devices(visible, f"{reason}, {VARIABLE}={visible}")
    if args["model_instance_kind"] != "GPU":
        _check_enough(arguments, inherited)
        return None
    if any(size_of(arguments, key) > 1 for key in _ENGINE_SIZES):
        raise ConfigError(
            "config.pbtxt: instance_group.kind: expected KIND_MODEL, got KIND_GPU, which is one GPU, while "
            f"model.json asks for several ({', '.join(_ENGINE_SIZES)}); {PARAMETER} says which"
        )
    device = int(args["model_instance_device_id"])
    if device < 0:
        return None
    visible = visible_device(device, inherited)
    return Devices(visible, f"{args['model_name']}: using GPU {visible}, as instance_group says")


def visible_device(number: int, visible: str | None, about: str = "config.pbtxt: instance_group.gpus") -> str:
    """What CUDA_VISIBLE_DEVICES has to be for GPU ``number``, which counts within the server's own ``visible``.

    Raises:
        ConfigError: the server does not see so many, or the machine does not have them; begins with ``about``.
    """
    if not visible:
        count = machine_gpus()
        if count is not None and number >= count:
            raise ConfigError(f"{about}: expected 0 to {count - 1} (this machine has {count} GPUs), got {number}")
        return str(number)
    devices = [device.strip() for device in visible.split(",")]
    if number >= len(devices):
        raise ConfigError(
            f"{about}: expected 0 to {len(devices) - 1} (tritonserver runs with {VARIABLE}={visible}), got {number}"
        )
    return devices[number]


def machine_gpus() -> int | None:
    """How many GPUs this machine has; None where NVIDIA's driver does not say."""
    try:
        return sum(1 for _ in _DRIVER.iterdir()) or None
    except OSError:
        return None


def _check_enough(arguments: Mapping[str, Any], inherited: str | None) -> None:
    """Whether tritonserver sees as many GPUs as the engine takes: vLLM says less, and later."""
    there = machine_gpus()
    if there is None or any(arguments.get(key) == "ray" for key in _RAY) or any(key in arguments for key in _ELSEWHERE):
        return
    seen = min(there, len(inherited.split(","))) if inherited else there
    if (asked := device_count(arguments)) > seen:
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: expected at most {seen} GPUs, which tritonserver sees, got {asked} "
            f"({', '.join(_ENGINE_SIZES)}, data_parallel_size)"
        )


def _read_group(number: int, text: str) -> Group:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ConfigError(
            f"{_ABOUT}: group {number}: expected numbers of GPUs such as 0,1 (groups for several instances are "
            f"separated by semicolons: 0,1;2,3), got {shorten(text)}"
        )
    group = tuple(int(word) for word in words)
    if len(set(group)) < len(group):
        raise ConfigError(f"{_ABOUT}: group {number}: expected each GPU once, got {shorten(text)}")
    return group


def _instances(model_config: Mapping[str, Any]) -> Iterator[tuple[str, str, int | None]]:
    """Name, kind and GPU of all instances, in Triton's order."""
    for place, group in enumerate(model_config.get("instance_group", [])):
        name = group.get("name") or f"{model_config.get('name', '')}_{place}"
        for copy in range(int(group.get("count", 1))):
            for gpu in group.get("gpus") or [None]:
                yield f"{name}_{copy}", group.get("kind", ""), gpu


def _index(model_config: Mapping[str, Any], args: Mapping[str, str]) -> int:
    name, device = args["model_instance_name"], int(args["model_instance_device_id"])
    for index, (its_name, _, gpu) in enumerate(_instances(model_config)):
        if its_name == name and gpu in (None, device):
            return index
    raise ConfigError(f"{_ABOUT}: instance_group has no instance {name}")


def _sizes(arguments: Mapping[str, Any]) -> str:
    """Those that make an engine larger than one device."""
    return ", ".join(key for key in (*_ENGINE_SIZES, "data_parallel_size") if size_of(arguments, key) > 1)


def _listed(group: Group) -> str:
    return ",".join(map(str, group))
