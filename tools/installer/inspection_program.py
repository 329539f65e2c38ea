"""Reads models as Triton and vllm_custom do, and prints as JSON what it found. Runs in the Python that serves.

Its one argument is a JSON object: the folders of the models, and that of the backend.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The part of Triton's ModelConfig that is looked at, for a Python without Triton's client: name, number, kind.
_STRING, _BOOL, _INT32, _MESSAGE = 9, 8, 5, 11
_OPTIONAL, _REPEATED = 1, 3
_PARTS: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "ParametersEntry": (("key", 1, _STRING, ""), ("value", 2, _MESSAGE, "ModelParameter")),
    "ModelParameter": (("string_value", 1, _STRING, ""),),
    "Tensor": (("name", 1, _STRING, ""),),
    "Policy": (("decoupled", 1, _BOOL, ""),),
    "Cache": (("enable", 1, _BOOL, ""),),
    "Group": (("count", 1, _INT32, ""), ("*gpus", 2, _INT32, "")),
    "Step": (("model_name", 1, _STRING, ""),),
    "Ensemble": (("*step", 1, _MESSAGE, "Step"),),
    "ModelConfig": (
        ("name", 1, _STRING, ""),
        ("platform", 2, _STRING, ""),
        ("backend", 3, _STRING, ""),
        ("max_batch_size", 4, _INT32, ""),
        ("*input", 5, _MESSAGE, "Tensor"),
        ("*output", 6, _MESSAGE, "Tensor"),
        ("*instance_group", 7, _MESSAGE, "Group"),
        ("*parameters", 8, _MESSAGE, "ParametersEntry"),
        ("model_transaction_policy", 9, _MESSAGE, "Policy"),
        ("response_cache", 10, _MESSAGE, "Cache"),
        ("ensemble_scheduling", 11, _MESSAGE, "Ensemble"),
    ),
}


def triton_schema() -> Any:
    """Triton's ModelConfig; None where its client is not installed."""
    try:
        return importlib.import_module("tritonclient.grpc.model_config_pb2").ModelConfig
    except ImportError:
        return None


def own_schema() -> Any:
    """The part of it that is looked at. Other fields are passed over."""
    descriptor_pb2: Any = importlib.import_module("google.protobuf.descriptor_pb2")
    pool: Any = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
    factory: Any = importlib.import_module("google.protobuf.message_factory")
    file = descriptor_pb2.FileDescriptorProto(name="looked_at.proto", package="looked_at", syntax="proto3")
    for part, fields in _PARTS.items():
        message = file.message_type.add(name=part)
        for name, number, kind, of in fields:
            label = _REPEATED if name.startswith("*") else _OPTIONAL
            added = message.field.add(name=name.lstrip("*"), number=number, type=kind, label=label)
            if of:
                added.type_name = f".looked_at.{of}"
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("looked_at.ModelConfig"))


def read_config(path: Path, *, with_client: bool = True) -> dict[str, Any]:
    """config.pbtxt as Triton gives it to a backend, read with the schema of Triton's client where it is installed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be parsed; says line and column.
    """
    text_format: Any = importlib.import_module("google.protobuf.text_format")
    json_format: Any = importlib.import_module("google.protobuf.json_format")
    known = triton_schema() if with_client else None
    message = (known or own_schema())()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), message, allow_unknown_field=known is None)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if isinstance(config.get("parameters"), list):
        config["parameters"] = {entry.get("key", ""): entry.get("value", {}) for entry in config["parameters"]}
    return config


def inspect(folder: Path, version: str, backend: Path) -> dict[str, Any]:
    """What is in config.pbtxt, or what is wrong with it, and why the model would not load."""
    try:
        config = read_config(folder / "config.pbtxt")
    except (OSError, ValueError) as error:
        return {"problem": str(error)}
    found: dict[str, Any] = {"config": config}
    if config.get("backend") == "vllm_custom":
        found["refused"] = refusal({"name": folder.name, **config}, folder / version, backend)
    return found


def refusal(config: Mapping[str, Any], version_folder: Path, backend: Path) -> str | None:
    """What a load says before it imports vLLM; None where it goes on, or where this Python is not one that serves."""
    try:
        from vllm_custom import preflight
        from vllm_custom.errors import ConfigError
    except ImportError:
        return None
    decoupled = {"model_transaction_policy": {"decoupled": True}}  # as the backend completes it
    try:
        preflight.check({"model_config": json.dumps({**decoupled, **config})}, version_folder, backend)
    except ConfigError as error:
        return str(error)
    return None


def main() -> None:
    asked = json.loads(sys.argv[1])
    importlib.import_module("google.protobuf")
    backend = Path(asked["backend"])
    print(json.dumps([inspect(Path(folder), version, backend) for folder, version in asked["models"]]))


if __name__ == "__main__":
    main()
