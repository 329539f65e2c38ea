"""model.json and multi_lora.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_custom import engine_args
from vllm_custom.errors import ConfigError
from vllm_custom.kernel import model_files

KNOWN = ("model", "tokenizer", "max_model_len", "enable_lora", "gpu_memory_utilization")


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my_model" / "1"
    folder.mkdir(parents=True)
    return folder


def write(version_dir: Path, content: Any, name: str = "model.json") -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (version_dir / name).write_text(text, encoding="utf-8")


def adapter(version_dir: Path, folder: str) -> Path:
    path = version_dir / folder
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    return path


def test_arguments_are_read_as_they_are(version_dir: Path) -> None:
    arguments = {"model": "图/模型", "max_model_len": 512, "gpu_memory_utilization": 0.5}
    write(version_dir, arguments)
    assert model_files.read_engine_args(version_dir) == arguments
    model_files.check_engine_args(arguments, KNOWN)


def test_a_missing_file_is_named_with_its_place(version_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.json is missing: expected my_model/1/model\.json") as error:
        model_files.read_engine_args(version_dir)
    assert str(version_dir) not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"model": "a",\n "max_model_len": }',
            r"model\.json: expected a JSON object, got text that is not JSON \(.* at line 2, column 19\)",
        ),
        ("", r"model\.json: expected a JSON object, got text that is not JSON \(.* at line 1, column 1\)"),
        ('["model"]', r"model\.json: expected a JSON object, got \['model'\]"),
        ("null", r"model\.json: expected a JSON object, got None"),
        ('{"model": NaN}', r"text that is not JSON \(NaN is not a JSON number\)"),
        ("[" * 100_000, r"text that is not JSON \(nested too deeply\)"),
        ("1" * 5000, r"text that is not JSON \("),
    ],
)
def test_what_is_not_a_json_object_is_refused_with_its_place(version_dir: Path, content: str, message: str) -> None:
    write(version_dir, content)
    with pytest.raises(ConfigError, match=message):
        model_files.read_engine_args(version_dir)


def test_other_encodings_are_refused(version_dir: Path) -> None:
    (version_dir / "model.json").write_bytes(b'{"model": "\xff"}')
    with pytest.raises(ConfigError, match=r"model\.json cannot be read: .*utf-8"):
        model_files.read_engine_args(version_dir)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_model_length", "; did you mean max_model_len"),
        ("gpu_memory_utilisation", "; did you mean gpu_memory_utilization?"),
        ("zzz", ""),
    ],
)
def test_an_unknown_argument_is_named_with_what_is_close(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        model_files.check_engine_args({"model": "m", key: 1}, KNOWN)
    assert str(error.value).startswith(f"model.json: unknown engine argument {key!r}{hint}")


def test_relative_paths_are_resolved_where_they_exist(version_dir: Path) -> None:
    (version_dir / "weights").mkdir()
    absolute = str(version_dir.parent)
    arguments = {
        "model": "weights",
        "tokenizer": "./weights",
        "hf_config_path": "",
        "download_dir": absolute,
        "max_model_len": 5,
    }
    assert engine_args.resolve_paths(arguments, version_dir) == {
        **arguments,
        "model": str(version_dir / "weights"),
        "tokenizer": str(version_dir / "weights"),
    }
    assert arguments["model"] == "weights"


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "facebook/opt-125m", "gpt2"])
def test_hub_names_stay(version_dir: Path, name: str) -> None:
    assert engine_args.resolve_paths({"model": name}, version_dir) == {"model": name}


def test_the_version_folder_itself_can_hold_the_model(version_dir: Path) -> None:
    assert engine_args.resolve(".", version_dir) == str(version_dir)


def test_adapters_keep_their_order_and_are_resolved(version_dir: Path) -> None:
    inside, outside = adapter(version_dir, "lora/zh"), adapter(version_dir.parent, "caps")
    write(version_dir, {"zh": "lora/zh", "caps": str(outside), "hub": "someone/adapter"}, "multi_lora.json")
    loaded = engine_args.load_loras(version_dir)
    assert list(loaded.items()) == [("zh", str(inside)), ("caps", str(outside)), ("hub", "someone/adapter")]


def test_a_missing_lora_file_says_why_it_is_expected(version_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"multi_lora\.json is missing: model\.json sets enable_lora"):
        engine_args.load_loras(version_dir)
    assert engine_args.load_loras(version_dir, required=False) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zh": 5}, r"multi_lora\.json: zh: expected a path or hub name as a string, got 5"),
        ({"zh": "lora/zh"}, r"multi_lora\.json: zh: the folder 'lora/zh' does not exist"),
        ({"zh": "./zh"}, r"multi_lora\.json: zh: the folder './zh' does not exist"),
        ({"zh": "empty"}, r"multi_lora\.json: zh: no adapter_config\.json in 'empty'"),
        ({"zh": "/nowhere/at/all"}, r"multi_lora\.json: zh: no adapter_config\.json in '/nowhere/at/all'"),
        ("{", r"multi_lora\.json: expected a JSON object, got text that is not JSON"),
        ([], r"multi_lora\.json: expected a JSON object, got \[\]"),
        ({"zh": ""}, r"multi_lora\.json: zh: expected a path or hub name as a string, got ''"),
    ],
)
def test_a_wrong_lora_file_names_the_adapter(version_dir: Path, content: Any, message: str) -> None:
    (version_dir / "empty").mkdir()
    write(version_dir, content, "multi_lora.json")
    with pytest.raises(ConfigError, match=message):
        engine_args.load_loras(version_dir)


@pytest.mark.parametrize(
    ("value", "enabled"),
    [(True, True), ("true", True), ("True", True), (False, False), ("false", False), (None, False)],
)
def test_lora_is_enabled_by_a_boolean_or_its_name(value: Any, enabled: bool) -> None:
    assert model_files.lora_enabled({"enable_lora": value}) is enabled
    assert model_files.lora_enabled({}) is False


@pytest.mark.parametrize("value", [1, "yes", "no", [], ""])
def test_other_values_are_no_booleans(value: Any) -> None:
    """vLLM would take any text for true, and the backend for false."""
    with pytest.raises(ConfigError, match=r"model\.json: enable_lora: expected true or false, got "):
        model_files.lora_enabled({"enable_lora": value})
