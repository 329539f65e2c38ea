"""What we know of vLLM: names, errors, and the places where it lets us in."""

from types import SimpleNamespace
from typing import Any

import fakes
import pytest

from vllm_custom import compat
from vllm_custom.errors import BackendError, ConfigError, InvalidRequestError, UnavailableError, UnsupportedError
from vllm_custom.media import HandleTable, install_connector

pytestmark = pytest.mark.usefixtures("vllm")


def test_engine_arguments_are_those_of_the_installed_vllm() -> None:
    assert {"model", "max_model_len", "enable_lora", "limit_mm_per_prompt"} <= set(compat.engine_argument_names())


def test_a_parser_for_reasoning_goes_with_constraints_in_model_json() -> None:
    given = {"backend": "xgrammar", "enable_in_reasoning": True}
    arguments = {"reasoning_parser": "granite", "structured_outputs_config": dict(given)}
    compat.prepare_reasoning(arguments)
    made: Any = arguments["structured_outputs_config"]
    assert (made.backend, made.enable_in_reasoning) == ("xgrammar", True)
    for untouched in ({"structured_outputs_config": given}, {"reasoning_parser": "granite"}, {}):
        before = dict(untouched)
        compat.prepare_reasoning(untouched)
        assert untouched == before
    with pytest.raises(ConfigError, match=r"(?s)model.json: structured_outputs_config: .*nonsense"):
        compat.prepare_reasoning({"reasoning_parser": "granite", "structured_outputs_config": {"nonsense": 1}})


def test_request_ids_differ() -> None:
    assert len({compat.random_request_id() for _ in range(100)}) == 100


@pytest.mark.parametrize(("modality", "expected"), [("image", "<image>"), ("video", "<video>")])
def test_placeholders_are_what_the_models_processor_looks_for(modality: str, expected: str) -> None:
    assert compat.placeholder(fakes.Engine(), modality, 1) == expected
    assert compat.placeholder(fakes.Engine(), modality, 2) == expected


def test_limits_are_the_processors_and_none_for_text_models() -> None:
    assert compat.media_limits(fakes.Engine()) == {}
    info = SimpleNamespace(allowed_mm_limits={"image": 30})
    engine = SimpleNamespace(
        model_config=SimpleNamespace(is_multimodal_model=True),
        renderer=SimpleNamespace(get_mm_processor=lambda: SimpleNamespace(info=info)),
    )
    assert compat.media_limits(engine) == {"image": 30}


def _dead() -> Exception:
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError()


def _generate_error(cause: Exception | None) -> Exception:
    from vllm.v1.engine.exceptions import EngineGenerateError

    error = EngineGenerateError("wrapped")
    error.__cause__ = cause
    return error


def _client_error() -> Exception:
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError("bad top_p", parameter="top_p")


def _template_error() -> Exception:
    import jinja2

    return jinja2.TemplateError("roles must alternate")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (_dead, UnavailableError, "has died"),
        (lambda: ValueError("too long"), InvalidRequestError, "too long"),
        (lambda: TypeError("wrong"), InvalidRequestError, "wrong"),
        (_client_error, InvalidRequestError, "bad top_p"),
        (_template_error, InvalidRequestError, "roles must alternate"),
        (lambda: NotImplementedError("not with this model"), UnsupportedError, "not with this model"),
        (NotImplementedError, UnsupportedError, "does not support"),
        (lambda: _generate_error(ValueError("bad image")), InvalidRequestError, "bad image"),
        (lambda: _generate_error(_dead()), UnavailableError, "has died"),
    ],
)
def test_vllms_errors_are_translated(make, kind: type[BackendError], message: str) -> None:
    translated = compat.engine_error(make())
    assert type(translated) is kind
    assert message in str(translated)


@pytest.mark.parametrize("make", [RuntimeError, ValueError, lambda: KeyError("x"), lambda: _generate_error(None)])
def test_other_errors_are_left_to_be_defects(make) -> None:
    assert compat.engine_error(make()) is None


async def test_vllms_chat_renderer_knows_handles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", "http")
    monkeypatch.setenv("VLLM_MAX_IMAGE_PIXELS", "1")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1)
    table = HandleTable()
    install_connector(table, 1000)
    from vllm import envs

    assert envs.VLLM_MAX_IMAGE_PIXELS == 1000
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    connector = MEDIA_CONNECTOR_REGISTRY.load(envs.VLLM_MEDIA_CONNECTOR)
    with table.lend(["picture"]) as (handle,):
        assert connector.fetch_image(handle) == "picture"
        assert await connector.fetch_image_async(handle) == "picture"
        assert connector.fetch_video(handle) == "picture"
        assert await connector.fetch_video_async(handle) == "picture"
        assert await connector.fetch_audio_async(handle) == "picture"
        assert connector.fetch_image_embedding(handle) == "picture"
        assert await connector.fetch_image_embedding_async(handle) == "picture"
        for url in ("http://127.0.0.1:1/a.png", "data:image/png;base64,aGk=", "file:///etc/hostname", handle + "0"):
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                connector.fetch_image(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_image_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_audio_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_image_embedding_async(url)


def _engine(seen: dict[str, Any], method: str = "generate", parser: str = "") -> Any:
    return SimpleNamespace(
        vllm_config=SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=parser)),
        **{method: lambda *args, **options: seen.update(options)},
    )


@pytest.mark.parametrize(
    ("parser", "constraint", "ended"), [("qwen3", "x", True), ("qwen3", None, None), ("", "x", None)]
)
def test_a_constraint_holds_from_the_start_with_a_parser_for_reasoning_too(
    parser: str, constraint: str | None, ended: bool | None
) -> None:
    seen: dict[str, Any] = {}
    sampling = SimpleNamespace(structured_outputs=constraint)
    compat.run(_engine(seen, parser=parser), {}, sampling, "id", pooling=False, lora_request=None, priority=0)
    assert seen.get("reasoning_ended") == ended


@pytest.mark.parametrize(("pooling", "method"), [(False, "generate"), (True, "encode")])
def test_the_engine_is_called_in_full(pooling: bool, method: str) -> None:
    seen: dict[str, Any] = {}
    engine = _engine(seen, method)
    headers = {"traceparent": "00-1-2-01"}
    params = SimpleNamespace(structured_outputs=None)
    compat.run(engine, {}, params, "id", pooling=pooling, lora_request=None, priority=3, trace_headers=headers)
    assert seen == {"lora_request": None, "priority": 3, "trace_headers": headers}


@pytest.mark.parametrize(("endpoint", "expected"), [("http://collector", True), (None, False)])
def test_whether_vllm_traces(endpoint: str | None, expected: bool) -> None:
    observability = SimpleNamespace(otlp_traces_endpoint=endpoint)
    engine = SimpleNamespace(vllm_config=SimpleNamespace(observability_config=observability))
    assert compat.traces(engine) is expected


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({"distributed_executor_backend": "mp", "nnodes": 1}, True),
        ({"distributed_executor_backend": None}, True),
        ({"distributed_executor_backend": "ray", "nnodes": 1}, False),
        ({"distributed_executor_backend": "mp", "nnodes": 2}, False),
    ],
)
def test_workers_see_this_machines_files_or_not(parallel: dict[str, Any], expected: bool) -> None:
    engine = SimpleNamespace(vllm_config=SimpleNamespace(parallel_config=SimpleNamespace(**parallel)))
    assert compat.on_one_host(engine) is expected


async def test_a_key_in_the_servers_environment_is_not_asked_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """With VLLM_API_KEY set, every call of openai_request was answered 401: Triton's clients send no keys."""
    import warnings

    from vllm import envs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from vllm.entrypoints.openai import api_server

    async def tasks() -> tuple[str, ...]:
        return ("generate",)

    async def nothing(*_: Any) -> None: ...

    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert envs.VLLM_API_KEY == "secret"
    monkeypatch.setattr(api_server, "init_app_state", nothing)
    config = SimpleNamespace(structured_outputs_config=None)
    engine = SimpleNamespace(vllm_config=config, log_stats=False, model_config=None, get_supported_tasks=tasks)
    application = await compat.build_openai_application(engine, ["m"], {})
    names = [middleware.cls.__name__ for middleware in application.user_middleware]
    assert "CORSMiddleware" in names
    assert "AuthenticationMiddleware" not in names
