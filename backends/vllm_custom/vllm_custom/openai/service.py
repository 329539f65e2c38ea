"""Serve calls of the OpenAI API on a running engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol

import msgspec

from vllm_custom.contract.routes import FORM_PATHS, RESPONSE_PATH, RESPONSES_PATH
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.background import BEGUN, Storage
from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import ConfigError, InternalError, NotFoundError, UnsupportedError, listing, shorten
from vllm_custom.lora import LoraAdapters
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.openai.asgi import Application, Kept, call_application, pass_through, scope_of
from vllm_custom.openai.envelope import OpenAICall
from vllm_custom.openai.figures import with_figures
from vllm_custom.openai.forms import form_with_audio
from vllm_custom.openai.items import drop_nulls
from vllm_custom.openai.media import media_by_handle
from vllm_custom.openai.models import RequestAdapters
from vllm_custom.openai.response import HttpReply, OpenAIResponder
from vllm_custom.openai.rules import too_long
from vllm_custom.openai.secrets import without_secrets
from vllm_custom.request.text import text_length
from vllm_custom.sampling import PromptLogprobs

# Arguments of vLLM's server that decide what its OpenAI answers look like; the rest is about ports, processes, logs,
# or opens what this backend guards by itself.
OPENAI_ARGUMENTS = frozenset(
    {
        "chat_template_content_format",
        "default_chat_template_kwargs",
        "enable_force_include_usage",
        "enable_per_request_metrics",
        "enable_prompt_tokens_details",
        "exclude_tools_when_tool_choice_none",
        "fingerprint_mode",
        "fingerprint_value",
        "response_role",
        "return_tokens_as_token_ids",
        "sse_keep_alive_interval",
        "tool_strict_level",
        "trust_request_chat_template",
        "trust_request_mm_kwargs",
    }
)
_OK = 200
MODELS_PATH = "/v1/models"
# What the application says of a route that it does not have.
_NOT_FOUND = b'{"detail":"Not Found"}'


def application_arguments(settings: Settings, chat_template: str | None) -> dict[str, Any]:
    """What config.pbtxt says, as arguments of vLLM's server.

    Raises:
        ConfigError: an argument that may not be given, or parsers that do not go together.
    """
    for name in settings.openai_args:
        if name not in OPENAI_ARGUMENTS:
            raise ConfigError(
                f"config.pbtxt: parameter OPENAI_ARGS: unknown argument {name!r} (known: {listing(OPENAI_ARGUMENTS)})"
            )
    for name, trusted in (
        ("trust_request_chat_template", settings.trust_request_chat_template),
        ("trust_request_mm_kwargs", settings.trust_request_mm_kwargs),
    ):
        if settings.openai_args.get(name, trusted) is not trusted:
            raise ConfigError(
                f"config.pbtxt: parameter OPENAI_ARGS: {name} contradicts the parameter {name.upper()}, which is "
                f"{str(trusted).lower()}; expected {name.upper()} alone"
            )
    if settings.enable_auto_tool_choice and not settings.tool_call_parser:
        raise ConfigError("config.pbtxt: parameter ENABLE_AUTO_TOOL_CHOICE needs TOOL_CALL_PARSER")
    return {
        **settings.openai_args,
        "chat_template": chat_template,
        "tool_call_parser": settings.tool_call_parser or None,
        "enable_auto_tool_choice": settings.enable_auto_tool_choice,
        "trust_request_chat_template": settings.trust_request_chat_template,
        # Our own rules have judged them before: what is left is what clients may set (max_pixels).
        "trust_request_mm_kwargs": True,
    }


class Place(Protocol):
    """What work has taken."""

    def leave(self) -> None: ...


Hold = Callable[[int], Place]


async def _close_behind(tasks: Sequence[asyncio.Task[Any]], stack: contextlib.AsyncExitStack) -> None:
    async with stack:
        await asyncio.wait(tasks)


class OpenAIService:
    """vLLM's application, fed with calls. To be used on the engine's event loop."""

    def __init__(
        self,
        application: Application | None,
        media: MediaLoader,
        handles: MediaHandles,
        adapters: RequestAdapters,
        model_name: str,
        more_paths: Collection[str] = (),
        max_body_bytes: int = 1 << 24,
        hold: Hold | None = None,
    ) -> None:
        """
        Args:
            application: vLLM's; None where it could not be built.
            media: loads media within the model's rules.
            handles: through which vLLM asks for them.
            adapters: of the model.
            model_name: the model's own name, which wins over an adapter's.
            more_paths: may be called in addition to those of :data:`~vllm_custom.contract.routes.OPENAI_PATHS`.
            max_body_bytes: OPENAI_MAX_BODY_BYTES.
            hold: takes a place for so many sequences that go on in the background, which is left with its ``leave``.
        """
        self._max_body_bytes = max_body_bytes
        self._application = application
        self._media = media
        self._handles = handles
        self._adapters = adapters
        self._model_name = model_name
        self._more_paths = frozenset(more_paths)
        self._hold = hold
        self._jobs: set[asyncio.Task[None]] = set()

    @classmethod
    async def build(
        cls,
        engine: Engine,
        settings: Settings,
        chat_template: str | None,
        media: MediaLoader,
        handles: MediaHandles,
        loras: LoraAdapters,
        log_error: Callable[[str], None],
        hold: Hold | None = None,
    ) -> OpenAIService:
        """Build vLLM's application as config.pbtxt asks for it; ``chat_template`` is the text of one, or None.

        Where vLLM cannot, the model serves without it, unless config.pbtxt has parameters for it.

        Raises:
            ConfigError: as :func:`application_arguments`, or the application that was asked for cannot be built.
        """
        arguments = application_arguments(settings, chat_template)
        adapters = RequestAdapters(loras)
        application = None
        storage = Storage(settings.openai_stored_responses, settings.openai_stored_bytes)
        try:
            application = await engine.openai_application([settings.model_name], arguments, adapters, storage)
        except Exception as error:
            if settings.tool_call_parser or settings.openai_args or settings.openai_stored_responses:
                raise ConfigError(f"config.pbtxt: vLLM refuses its OpenAI server's arguments: {error}") from error
            log_error(f"[vllm_custom] vLLM's OpenAI application cannot be built for this model: {error!r}")
        name, more_paths, most = settings.model_name, settings.openai_paths, settings.openai_max_body_bytes
        return cls(application, media, handles, adapters, name, more_paths, most, hold)

    async def serve(self, call: OpenAICall, stream: OpenAIResponder, request_id: str) -> None:
        """Answer ``call`` through ``stream``, to its end.

        Raises:
            BackendError: an adapter that cannot be loaded; what vLLM refuses is answered by its application.
        """
        application = self._found(call)
        if not call.is_allowed(self._more_paths):
            stream.start(404, {"content-type": "application/json"})
            stream.body(_NOT_FOUND, more=False)
            return
        async with self._served(call, request_id) as (headers, content):
            await call_application(application, call.method, call.path, headers, content, stream, call.query)
        if not stream.closed:
            raise InternalError(f"the application gave no complete response, request id {request_id}")

    async def serve_http(self, call: OpenAICall, reply: HttpReply, request_id: str, seconds: float | None) -> None:
        """Answer ``call``, which came by HTTP, to its end.

        Args:
            call: what is asked.
            reply: to the client.
            request_id: of the request.
            seconds: how long the application may take; None for as long as it takes.

        Raises:
            BackendError: as ``serve``.
            LateError: the application took longer.
        """
        application = self._found(call)
        if not call.is_allowed(self._more_paths):
            await reply.answer(404, _NOT_FOUND)
            return
        async with self._served(call, request_id) as (headers, content):
            scope = scope_of(call.method, call.path, headers, call.query)
            await pass_through(application, scope, content, reply.receive, reply.send, seconds)

    async def cards(self) -> list[dict[str, Any]]:
        """OpenAI's cards of the model and its adapters.

        Raises:
            BackendError: there is no application, or it does not list them.
        """
        kept = Kept()
        await call_application(self._found(), "GET", MODELS_PATH, {}, b"", kept)
        if kept.status != _OK:
            raise InternalError(f"the application answers status {kept.status} instead of a list of its models")
        cards: list[dict[str, Any]] = msgspec.json.decode(kept.data)["data"]
        return cards

    async def has_response(self, response_id: str) -> bool:
        """Whether the application keeps this response of the Responses API.

        Raises:
            BackendError: there is no application.
        """
        kept = Kept()
        await call_application(self._found(), "GET", RESPONSE_PATH.format(id=response_id), {}, b"", kept)
        return kept.status == _OK

    async def names(self) -> list[str]:
        """What requests may call the model: its own name, and those of its adapters."""
        return [self._model_name, *await self._adapters.names()]

    async def check_name(self, call: OpenAICall) -> None:
        """Look at the name before vLLM's application does.

        Raises:
            NotFoundError: the body names another model.
        """
        name = call.body.get("model") if isinstance(call.body, dict) else None
        if isinstance(name, str) and name and name not in await self.names():
            raise NotFoundError(f"The model {shorten(name)} does not exist.", param="model")

    def _found(self, call: OpenAICall | None = None) -> Application:
        if self._application is None:
            raise UnsupportedError("vLLM has no OpenAI application for this model; the server's log says why")
        application = without_secrets(self._application)
        return with_figures(application) if call is not None and not call.streamed else application

    @contextlib.asynccontextmanager
    async def _served(self, call: OpenAICall, request_id: str) -> AsyncIterator[tuple[dict[str, str], bytes]]:
        """As ``_prepared``, for as long as the work of a request lasts, of which some may follow its answer."""
        if not call.background:
            async with self._prepared(call, request_id) as prepared:
                yield prepared
            return
        async with contextlib.AsyncExitStack() as stack:
            if self._hold is not None:
                stack.callback(self._hold(call.all_sequences).leave)
            begun: list[asyncio.Task[Any]] = []
            token = BEGUN.set(begun)
            try:
                yield await stack.enter_async_context(self._prepared(call, request_id))
            finally:
                BEGUN.reset(token)
                if begun:
                    job = asyncio.ensure_future(_close_behind(begun, stack.pop_all()))
                    self._jobs.add(job)
                    job.add_done_callback(self._jobs.discard)

    @contextlib.asynccontextmanager
    async def _prepared(self, call: OpenAICall, request_id: str) -> AsyncIterator[tuple[dict[str, str], bytes]]:
        """Headers and body for the application, and what they name: the adapter and the media."""
        headers = {"content-type": "application/json", "x-request-id": request_id, **call.headers}
        PromptLogprobs.count_together()
        async with contextlib.AsyncExitStack() as stack:
            if call.model != self._model_name:
                await stack.enter_async_context(self._adapters.use(call.model))
            body: dict[str, Any] | str | bytes | None = call.body
            if isinstance(body, dict) and call.path in FORM_PATHS:
                headers["content-type"], content = await stack.enter_async_context(form_with_audio(body, self._media))
                headers["content-length"] = str(len(content))
                yield headers, content
                return
            if isinstance(body, dict):
                if call.path == RESPONSES_PATH:
                    drop_nulls(body)
                stack.enter_context(media_by_handle(body, self._media, self._handles))
                # What looks like media and is none has not been counted before. Long texts take long to write as JSON.
                if call.size > self._max_body_bytes and (length := text_length(body)) > self._max_body_bytes:
                    raise too_long(length, self._max_body_bytes)
                body = msgspec.json.encode(body)
            content = body.encode() if isinstance(body, str) else body or b""
            if len(content) > self._max_body_bytes:
                raise too_long(len(content), self._max_body_bytes)
            if call.body is not None:
                headers["content-length"] = str(len(content))
            yield headers, content
