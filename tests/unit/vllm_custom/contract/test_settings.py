"""Settings: config.pbtxt's parameters, typed and checked."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vllm_custom.contract.hosts import HostPattern
from vllm_custom.contract.settings import Settings
from vllm_custom.contract.table import CONFIG_PARAMETERS
from vllm_custom.errors import ConfigError

DOMAINS = "a list of host, *.suffix, host:port or *.suffix:port"
NETWORKS = "a list of networks in CIDR notation without host bits, such as 10.0.0.0/8"
FOLDER = "the absolute path of a folder, other than /"


def settings(parameters: dict[str, str] | None = None, **config: Any) -> Settings:
    entries = {key: {"string_value": value} for key, value in (parameters or {}).items()}
    return Settings.from_model_config({"name": "model", "parameters": entries, **config})


def test_a_store_of_responses_needs_one_instance() -> None:
    config = {"name": "m", "parameters": {"OPENAI_STORED_RESPONSES": {"string_value": "5"}}}
    assert Settings.from_model_config(config).openai_stored_responses == 5
    assert Settings.from_model_config({**config, "instance_group": [{"count": 1}]}).openai_stored_responses == 5
    for group in ({"count": 2}, {"count": 1, "gpus": [0, 1]}):
        with pytest.raises(ConfigError, match=r"OPENAI_STORED_RESPONSES: expected 0, .* with 2 instances"):
            Settings.from_model_config({**config, "instance_group": [group]})


def test_a_bare_config_has_the_defaults_of_the_table() -> None:
    made = Settings.from_model_config({"name": "model"})
    assert made == Settings(
        model_name="model",
        decoupled=False,
        max_batch_size=0,
        declared_outputs=frozenset(),
        report_custom_metrics=False,
        enable_vllm_health_check=False,
        vllm_backend_dir="",
        media_max_bytes=64 * 1024 * 1024,
        image_max_pixels=50_000_000,
        video_max_frames=32,
        video_max_pixels=10_000_000_000,
        audio_max_seconds=600,
        media_concurrency=4,
        media_decode_seconds=30,
        media_worker_bytes=4 * 1024**3,
        media_request_bytes=1024**3,
        media_inflight_bytes=4 * 1024**3,
        media_max_items=128,
        media_cache_bytes=256 * 1024 * 1024,
        allowed_media_domains=(),
        allowed_media_networks=(),
        allowed_local_media_path="",
        media_fetch_timeout_seconds=30,
        media_fetch_concurrency=32,
        media_url_cache_bytes=0,
        chat_template="",
        declared_inputs=frozenset(),
        max_inflight_requests=0,
        lora_dir="",
    )


def test_every_parameter_has_a_field_and_every_field_a_parameter() -> None:
    """A key of the table without a field was dropped without a word."""
    of_triton = {"model_name", "decoupled", "max_batch_size", "declared_outputs", "declared_inputs"}
    assert {spec.name.lower() for spec in CONFIG_PARAMETERS} == set(Settings.model_fields) - of_triton
    with pytest.raises(ValidationError, match="no_such_limit"):
        Settings(**Settings.from_model_config({"name": "model"}).model_dump(), no_such_limit=1)


def test_tritons_own_fields_are_read() -> None:
    made = settings(
        max_batch_size=8,
        model_transaction_policy={"decoupled": True},
        output=[{"name": "text_output"}, {"name": "score"}],
        input=[{"name": "text_input"}, {"name": "max_tokens"}],
    )
    assert (made.max_batch_size, made.decoupled) == (8, True)
    assert made.declared_outputs == {"text_output", "score"}
    assert made.declared_inputs == {"text_input", "max_tokens"}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("REPORT_CUSTOM_METRICS", "true", True),
        ("REPORT_CUSTOM_METRICS", "True", True),
        ("ENABLE_VLLM_HEALTH_CHECK", "false", False),
        ("ENABLE_VLLM_HEALTH_CHECK", "1", True),
        ("MEDIA_MAX_BYTES", "1", 1),
        ("IMAGE_MAX_PIXELS", " 1000 ", 1000),
        ("VIDEO_MAX_FRAMES", "2", 2),
        ("ALLOWED_MEDIA_DOMAINS", "", ()),
        (
            "ALLOWED_MEDIA_DOMAINS",
            " Media.internal:8080, *.example.com,[::1]",
            (
                HostPattern("media.internal", port=8080),
                HostPattern("example.com", include_subdomains=True),
                HostPattern("::1"),
            ),
        ),
        ("ALLOWED_MEDIA_NETWORKS", "10.0.0.0/8,fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        ("ALLOWED_LOCAL_MEDIA_PATH", "", ""),
        ("ALLOWED_LOCAL_MEDIA_PATH", "/usr", "/usr"),
        ("MEDIA_FETCH_TIMEOUT_SECONDS", "5", 5),
        ("CHAT_TEMPLATE", "template.jinja", "template.jinja"),
        ("VLLM_BACKEND_DIR", "/opt/backend", "/opt/backend"),
    ],
)
def test_values_are_typed(key: str, text: str, value: object) -> None:
    assert getattr(settings({key: text}), key.lower()) == value


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("REPORT_CUSTOM_METRICS", "maybe", "true or false"),
        ("REPORT_CUSTOM_METRICS", "", "true or false"),
        ("ENABLE_VLLM_HEALTH_CHECK", "2", "true or false"),
        ("MEDIA_MAX_BYTES", "0", "a whole number of at least 1 (bytes)"),
        ("MEDIA_MAX_BYTES", "-1", "a whole number of at least 1 (bytes)"),
        ("MEDIA_MAX_BYTES", "64 MB", "a whole number of at least 1 (bytes)"),
        ("IMAGE_MAX_PIXELS", "1e6", "a whole number of at least 1 (pixels)"),
        ("VIDEO_MAX_FRAMES", "1.5", "a whole number of at least 1 (frames)"),
        ("VIDEO_MAX_FRAMES", "9" * 5000, "a whole number of at least 1 (frames)"),
        ("MEDIA_CONCURRENCY", "", "a whole number of at least 1"),
        ("MAX_INFLIGHT_REQUESTS", "-1", "a whole number of at least 0"),
        ("MEDIA_FETCH_TIMEOUT_SECONDS", "0", "a whole number of at least 1 (seconds)"),
        ("ALLOWED_MEDIA_DOMAINS", "*", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "*.", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a,,b", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a,", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "http://a", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a/b", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a:0", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a:65536", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a:x", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a.*.b", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "*.127.0.0.1", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "user@a", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "a b", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "::1", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "256.1.1.1", DOMAINS),
        ("ALLOWED_MEDIA_DOMAINS", "-a", DOMAINS),
        ("ALLOWED_MEDIA_NETWORKS", "10.0.0.1/8", NETWORKS),
        ("ALLOWED_MEDIA_NETWORKS", "10.0.0.0/33", NETWORKS),
        ("ALLOWED_MEDIA_NETWORKS", "private", NETWORKS),
        ("ALLOWED_MEDIA_NETWORKS", "10.0.0.0/8;127.0.0.0/8", NETWORKS),
        ("ALLOWED_LOCAL_MEDIA_PATH", "media", FOLDER),
        ("ALLOWED_LOCAL_MEDIA_PATH", "/", FOLDER),
        ("ALLOWED_LOCAL_MEDIA_PATH", "/usr/..", FOLDER),
        ("ALLOWED_LOCAL_MEDIA_PATH", "/no/such/folder", FOLDER),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_what_is_allowed(key: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings({key: text})
    assert str(error.value) == f"config.pbtxt: parameter {key}: expected {allowed}, got {text!r}"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("MEDIA_MAX_BYTE", "did you mean MEDIA_MAX_BYTES?"),
        ("media_max_bytes", "did you mean MEDIA_MAX_BYTES?"),
        ("gpu_memory_utilization", "vLLM engine arguments belong in model.json"),
        ("XYZ", "known: ALLOWED_LOCAL_MEDIA_PATH, "),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings({key: "1"})
    assert f"config.pbtxt: unknown parameter {key!r}" in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize("key", ["EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"])
def test_the_python_backends_own_keys_pass(key: str) -> None:
    assert settings({key: "anything"}) == settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().decoupled = True  # type: ignore[misc]


def test_the_chat_template_is_read_from_the_version_folder(tmp_path: Path) -> None:
    (tmp_path / "template.jinja").write_text("{{ messages }} 图", encoding="utf-8")
    assert settings({"CHAT_TEMPLATE": "template.jinja"}).read_chat_template(tmp_path) == "{{ messages }} 图"
    assert settings().read_chat_template(tmp_path) is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_chat_template_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=r"CHAT_TEMPLATE: expected a readable UTF-8 file, got 't\.jinja'"):
        settings({"CHAT_TEMPLATE": "t.jinja"}).read_chat_template(tmp_path)


def test_the_folder_of_adapters_is_found_from_the_version_folder(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "loras").mkdir()
    assert settings().find_lora_dir(tmp_path / "1", enable_lora=False) is None
    found = settings({"LORA_DIR": "../loras"}).find_lora_dir(tmp_path / "1", enable_lora=True)
    assert found == tmp_path / "loras"


@pytest.mark.parametrize(
    ("enable_lora", "message"),
    [(True, r"LORA_DIR: expected a folder, got 'nowhere'"), (False, "LORA_DIR needs enable_lora: true in model.json")],
)
def test_a_folder_of_adapters_that_cannot_be_used(tmp_path: Path, enable_lora: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings({"LORA_DIR": "nowhere"}).find_lora_dir(tmp_path, enable_lora=enable_lora)
