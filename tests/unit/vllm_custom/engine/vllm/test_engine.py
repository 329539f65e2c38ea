"""What we know of vLLM: names, errors, and the places where it lets us in."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import fakes
from vllm_custom.engine import Adapter, ModelFacts, RunOptions
from vllm_custom.engine.vllm import (
    VllmEngine,
    engine_argument_names,
    install_connector,
    media,
    openai,
    prepare_reasoning,
    prompts,
    requests,
)
from vllm_custom.engine_args import names_in_source
from vllm_custom.errors import (
    BackendError,
    ConfigError,
    EngineDiedError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from vllm_custom.kernel import engine_errors
from vllm_custom.media.handles import MediaHandles

pytestmark = pytest.mark.usefixtures("vllm")


def test_engine_arguments_are_those_of_the_installed_vllm() -> None:
    assert {"model", "max_model_len", "enable_lora", "limit_mm_per_prompt"} <= set(engine_argument_names())
    assert names_in_source() == set(engine_argument_names()), "as they are read without importing vLLM"


def test_a_parser_for_reasoning_goes_with_constraints_in_model_json() -> None:
    given = {"backend": "xgrammar", "enable_in_reasoning": True}
    arguments = {"reasoning_parser": "granite", "structured_outputs_config": dict(given)}
    prepare_reasoning(arguments)
    made: Any = arguments["structured_outputs_config"]
    assert (made.backend, made.enable_in_reasoning) == ("xgrammar", True)
    for untouched in ({"structured_outputs_config": given}, {"reasoning_parser": "granite"}, {}):
        before = dict(untouched)
        prepare_reasoning(untouched)
        assert untouched == before
    with pytest.raises(ConfigError, match=r"(?s)model.json: structured_outputs_config: .*nonsense"):
        prepare_reasoning({"reasoning_parser": "granite", "structured_outputs_config": {"nonsense": 1}})


@pytest.mark.parametrize(("modality", "expected"), [("image", "<image>"), ("video", "<video>")])
def test_placeholders_are_what_the_models_processor_looks_for(modality: str, expected: str) -> None:
    assert prompts.placeholder(fakes.Engine(), modality, 1) == expected
    assert prompts.placeholder(fakes.Engine(), modality, 2) == expected


def test_limits_are_the_processors_and_none_for_text_models() -> None:
    assert media.media_limits(fakes.Engine()) == {}
    info = SimpleNamespace(allowed_mm_limits={"image": 30})
    engine = SimpleNamespace(
        model_config=SimpleNamespace(is_multimodal_model=True),
        renderer=SimpleNamespace(get_mm_processor=lambda: SimpleNamespace(info=info)),
    )
    assert media.media_limits(engine) == {"image": 30}


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


def _not_found() -> Exception:
    from vllm.exceptions import LoRAAdapterNotFoundError

    return LoRAAdapterNotFoundError("zh", "a/zh")


def _overflow() -> Exception:
    from vllm.exceptions import QueueOverflowError

    return QueueOverflowError()


def _retryable() -> Exception:
    from vllm.exceptions import RetryableRequestError

    return RetryableRequestError()


def _template_error() -> Exception:
    import jinja2

    return jinja2.TemplateError("roles must alternate")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (_dead, EngineDiedError, "has died"),
        (lambda: ValueError("too long"), InvalidRequestError, "too long"),
        (lambda: TypeError("wrong"), InvalidRequestError, "wrong"),
        (_client_error, InvalidRequestError, "bad top_p"),
        (_template_error, InvalidRequestError, "roles must alternate"),
        (lambda: NotImplementedError("not with this model"), UnsupportedError, "not with this model"),
        (NotImplementedError, UnsupportedError, "does not support"),
        (_not_found, NotFoundError, "Loading lora zh failed"),
        (_overflow, UnavailableError, "currently busy"),
        (_retryable, UnavailableError, "please retry"),
        (lambda: _generate_error(ValueError("bad image")), InvalidRequestError, "bad image"),
        (lambda: _generate_error(_dead()), EngineDiedError, "has died"),
    ],
)
def test_vllms_errors_are_translated(make, kind: type[BackendError], message: str) -> None:
    translated = engine_errors.explain(make())
    assert type(translated) is kind
    assert message in str(translated)


def _failed_generation() -> Exception:
    from vllm.exceptions import GenerationError

    return GenerationError()


@pytest.mark.parametrize(
    "make", [RuntimeError, ValueError, lambda: KeyError("x"), lambda: _generate_error(None), _failed_generation]
)
def test_other_errors_are_left_to_be_defects(make) -> None:
    assert engine_errors.explain(make()) is None


async def test_vllms_chat_renderer_knows_handles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", "http")
    monkeypatch.setenv("VLLM_MAX_IMAGE_PIXELS", "1")
    table = MediaHandles()
    install_connector(table, 1000, 30)
    from vllm import envs

    assert envs.VLLM_MAX_IMAGE_PIXELS == 1000
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    connector = MEDIA_CONNECTOR_REGISTRY.load(envs.VLLM_MEDIA_CONNECTOR)
    with table.register(["picture"]) as (handle,):
        assert connector.fetch_image(handle) == "picture"
        assert await connector.fetch_image_async(handle) == "picture"
        assert connector.fetch_video(handle) == "picture"
        assert await connector.fetch_video_async(handle) == "picture"
        assert await connector.fetch_audio_async(handle) == "picture"
        assert connector.fetch_image_embedding(handle) == "picture"
        assert await connector.fetch_image_embedding_async(handle) == "picture"
        assert connector.fetch_audio_embedding(handle) == "picture"
        assert await connector.fetch_video_embedding_async(handle) == "picture"
        for url in ("http://127.0.0.1:1/a.png", "data:image/png;base64,aGk=", "file:///etc/hostname", handle + "0"):
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                connector.fetch_image(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_image_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_audio_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_image_embedding_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                await connector.fetch_audio_embedding_async(url)
            with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
                connector.fetch_video_embedding(url)


class Llm:
    """What is used of AsyncLLM to run a request: notes its calls, gives ``outputs``, then waits for ``gate``."""

    def __init__(self, *outputs: Any, parser: str = "", gate: asyncio.Event | None = None) -> None:
        self.vllm_config = SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=parser))
        self.errored = False
        self.calls: list[dict[str, Any]] = []
        self.closed = False
        self.aborted: list[str] = []
        self._outputs = outputs
        self._gate = gate

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncGenerator[Any, None]:
        self.calls.append(dict(options, method="generate", prompt=prompt, params=params, request_id=request_id))
        try:
            for output in self._outputs:
                yield output
            if self._gate is not None:
                await self._gate.wait()
        finally:
            self.closed = True

    async def encode(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncGenerator[Any, None]:
        async for output in self.generate(prompt, params, request_id, **options):
            self.calls[-1]["method"] = "encode"
            yield output

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


PIECE, LAST = fakes.RequestOutput([]), fakes.RequestOutput([], finished=True)


async def ran(llm: Llm, params: Any, options: RunOptions, prompt: Any = None) -> dict[str, Any]:
    """The only call of ``llm``, whose outputs all arrived."""
    outputs = [output async for output in requests.run(llm, prompt or {}, params, options)]
    assert outputs == [PIECE, LAST]
    assert (llm.closed, llm.aborted) == (True, [])
    (call,) = llm.calls
    return call


@pytest.mark.parametrize(
    ("parser", "constraint", "ended"), [("qwen3", "x", True), ("qwen3", None, None), ("", "x", None)]
)
async def test_a_constraint_holds_from_the_start_with_a_parser_for_reasoning_too(
    parser: str, constraint: str | None, ended: bool | None
) -> None:
    sampling = SimpleNamespace(structured_outputs=constraint)
    call = await ran(Llm(PIECE, LAST, parser=parser), sampling, RunOptions("id"))
    assert call.get("reasoning_ended") == ended


def _params(method: str) -> Any:
    from vllm import PoolingParams, SamplingParams

    return PoolingParams() if method == "encode" else SamplingParams()


METHODS = pytest.mark.parametrize("method", ["generate", "encode"])


@METHODS
async def test_the_engine_is_called_in_full(method: str) -> None:
    prompt, headers, params = {"prompt_token_ids": [1]}, {"traceparent": "00-1-2-01"}, _params(method)
    call = await ran(Llm(PIECE, LAST), params, RunOptions("id", priority=3, trace_headers=headers), prompt)
    expected = {"method": method, "prompt": prompt, "params": params, "request_id": "id"}
    assert call == expected | {"lora_request": None, "priority": 3, "trace_headers": headers}


@METHODS
async def test_an_adapter_reaches_vllm_by_its_name_number_and_path(method: str) -> None:
    call = await ran(Llm(PIECE, LAST), _params(method), RunOptions("id", Adapter("zh@2", 2, "/adapters/zh")))
    made = call["lora_request"]
    assert (made.lora_name, made.lora_int_id, made.lora_path) == ("zh@2", 2, "/adapters/zh")


async def test_who_leaves_early_aborts_the_request() -> None:
    llm = Llm(PIECE, LAST)
    async with aclosing(requests.run(llm, {}, _params("generate"), RunOptions("id"))) as outputs:
        assert await anext(outputs) is PIECE
        assert llm.aborted == []
    assert (llm.closed, llm.aborted) == (True, ["id"])


async def test_a_task_that_is_cancelled_aborts_the_request() -> None:
    llm, began = Llm(PIECE, gate=asyncio.Event()), asyncio.Event()

    async def consume() -> None:
        async with aclosing(requests.run(llm, {}, _params("generate"), RunOptions("id"))) as outputs:
            async for _ in outputs:
                began.set()

    task = asyncio.ensure_future(consume())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (llm.closed, llm.aborted) == (True, ["id"])


async def test_a_dead_engine_is_not_asked_to_abort() -> None:
    llm = Llm(PIECE, LAST)
    async with aclosing(requests.run(llm, {}, _params("generate"), RunOptions("id"))) as outputs:
        await anext(outputs)
        llm.errored = True
    assert (llm.closed, llm.aborted) == (True, [])


async def test_a_request_that_the_engine_gives_up_has_not_finished() -> None:
    """Where one of several data-parallel engines dies, vLLM ends the others, and their requests looked complete."""
    from vllm.v1.engine.exceptions import EngineDeadError

    given_up = fakes.RequestOutput([fakes.CompletionOutput(finish_reason="abort")], finished=True)
    with pytest.raises(EngineDeadError):
        _ = [output async for output in requests.run(Llm(PIECE, given_up), {}, None, RunOptions("id"))]


async def test_adapters_are_loaded_and_removed_by_number() -> None:
    llm = fakes.Engine()
    engine = VllmEngine(llm, ModelFacts())
    for number, name in enumerate(("zh", "caps"), 1):
        await engine.load_adapter(Adapter(name, number, f"/adapters/{name}"))
    assert [(item.lora_name, item.lora_int_id, item.lora_path) for item in llm.loaded] == [
        ("zh", 1, "/adapters/zh"),
        ("caps", 2, "/adapters/caps"),
    ]
    await engine.remove_adapter(1)
    assert [item.lora_name for item in llm.loaded] == ["caps"]


@pytest.mark.parametrize(
    ("found", "message"), [(_dead, "the vLLM engine has died"), (RuntimeError, "the vLLM engine is not healthy")]
)
async def test_an_engine_that_is_not_well_is_unavailable(found: Any, message: str) -> None:
    async def check() -> None:
        raise found()

    engine = VllmEngine(SimpleNamespace(check_health=check, errored=True), ModelFacts())
    assert engine.is_dead
    with pytest.raises(UnavailableError, match=message):
        await engine.check_health()


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (fakes.RequestOutput([fakes.CompletionOutput(finish_reason="stop")]), False),
        (
            fakes.RequestOutput([fakes.CompletionOutput(), fakes.CompletionOutput(finish_reason="error")]),
            True,
        ),
        (SimpleNamespace(outputs=SimpleNamespace(data=[1.0])), False),
        (SimpleNamespace(outputs=SimpleNamespace(data=[1.0]), error="full"), True),
    ],
)
def test_an_output_says_whether_the_engine_failed(output: Any, failed: bool) -> None:
    assert VllmEngine(None, ModelFacts()).has_failed(output) is failed


@pytest.mark.parametrize(("endpoint", "expected"), [("http://collector", True), (None, False)])
def test_whether_vllm_traces(endpoint: str | None, expected: bool) -> None:
    observability = SimpleNamespace(otlp_traces_endpoint=endpoint)
    engine = SimpleNamespace(vllm_config=SimpleNamespace(observability_config=observability))
    assert requests.traces(engine) is expected


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({"distributed_executor_backend": "mp", "nnodes": 1}, True),
        ({"distributed_executor_backend": None}, True),
        ({"distributed_executor_backend": "ray", "nnodes": 1}, False),
        ({"distributed_executor_backend": "mp", "nnodes": 2}, False),
        ({"distributed_executor_backend": "mp", "data_parallel_backend": "ray"}, False),
        ({"distributed_executor_backend": "mp", "data_parallel_size": 2, "data_parallel_size_local": 2}, True),
        ({"distributed_executor_backend": "mp", "data_parallel_size": 2, "data_parallel_size_local": 1}, False),
        (
            {
                "distributed_executor_backend": "mp",
                "data_parallel_size": 2,
                "data_parallel_size_local": 1,
                "local_engines_only": True,
            },
            True,
        ),
    ],
)
def test_workers_see_this_machines_files_or_not(parallel: dict[str, Any], expected: bool) -> None:
    one = {"data_parallel_size": 1, "data_parallel_size_local": 1}
    engine = SimpleNamespace(vllm_config=SimpleNamespace(parallel_config=SimpleNamespace(**one | parallel)))
    assert requests.on_one_host(engine) is expected


async def test_a_key_in_the_servers_environment_is_not_asked_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """With VLLM_API_KEY set, every call of openai_request was answered 401: Triton's clients send no keys."""
    import warnings

    from vllm import envs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from vllm.entrypoints.openai import api_server

    async def tasks() -> tuple[str, ...]:
        return ("generate",)

    async def nothing(engine_client: Any, state: Any) -> None:
        state.openai_serving_models = None

    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert envs.VLLM_API_KEY == "secret"
    monkeypatch.setattr(api_server, "init_app_state", nothing)
    monkeypatch.setattr(openai, "_serve_adapters", lambda models, adapters: None)
    config = SimpleNamespace(structured_outputs_config=None)
    engine: Any = SimpleNamespace(vllm_config=config, log_stats=False, model_config=None, get_supported_tasks=tasks)
    adapters: Any = None
    for wrapper in ("read_bodies_in_threads", "build_long_answers_in_threads"):
        monkeypatch.setattr(openai, wrapper, lambda application, _: application)
    application = await openai.build_openai_application(engine, ["m"], {}, adapters)
    names = [middleware.cls.__name__ for middleware in application.user_middleware]
    assert "CORSMiddleware" in names
    assert "AuthenticationMiddleware" not in names


def test_prompts_are_checked_whoever_calls_the_engine() -> None:
    seen: list[Any] = []
    llm = SimpleNamespace(generate=lambda *arguments, **options: (arguments, options))

    def check(params: Any, tokens: int) -> None:
        seen.append((params, tokens))
        if tokens > 2:
            raise ValueError("too many")

    VllmEngine(llm, ModelFacts()).guard_prompts(check)
    assert llm.generate({"prompt_token_ids": [1, 2]}, "params", "id", priority=1) == (
        ({"prompt_token_ids": [1, 2]}, "params", "id"),
        {"priority": 1},
    )
    assert llm.generate("text", "params", "id")[0][0] == "text"
    with pytest.raises(ValueError, match="too many"):
        llm.generate({"prompt_token_ids": [1, 2, 3]}, "params", "id")
    assert [tokens for _, tokens in seen] == [2, 0, 3]
