"""Prompts rendered as newer versions do it, for vLLM up to 0.16, which does so inside of ``generate``."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from vllm_custom.engine.vllm.older.names import find

_CHAT_UTILS = "vllm.entrypoints.chat_utils"
# Of what has been rendered, and of no prompt of a client.
_RENDERED = "type"
_T = TypeVar("_T")


def renders_in_generate(llm: Any) -> bool:
    """Whether ``llm`` is of a version whose ``generate`` takes prompts that are still to be rendered, and no others."""
    renderer = getattr(llm, "renderer", None)
    # vLLM 0.16 has a renderer, which does half of the work.
    return renderer is None or (
        hasattr(renderer, "render_prompts_async") and not hasattr(renderer, "render_cmpl_async")
    )


class OlderRendering:
    """Of one AsyncLLM; see :class:`~vllm_custom.engine.vllm.prompts.Rendering`."""

    def __init__(self, llm: Any) -> None:
        self._config = llm.model_config
        theirs = (getattr(llm, "input_processor", None) or llm.processor).input_preprocessor
        # A tokenizer serves one thread at a time; vLLM's application uses the other one.
        self.tokenizer = copy.deepcopy(theirs.tokenizer)
        self._preprocessor = copy.copy(theirs)
        self._messages: _Messages | _RenderersMessages = _Messages(self._config, self.tokenizer)
        if hasattr(theirs, "renderer"):
            self._preprocessor.renderer = copy.copy(theirs.renderer)
            self._preprocessor.renderer._tokenizer = self.tokenizer
            self._messages = _RenderersMessages(self._preprocessor.renderer)
        else:
            self._preprocessor.tokenizer = self.tokenizer
        # vLLM's own cache has a twin in the engine, to which requests would have to come in the order in which they
        # were rendered. This one keeps all of what it knows here.
        self._preprocessor.mm_processor_cache = _own_cache(theirs, llm.model_config)
        vars(self._preprocessor).pop("_mm_processor", None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm_custom_render")
        _pass_what_is_rendered(theirs)

    def media_processor(self) -> Any:
        return self._preprocessor._get_mm_processor()

    async def text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._in_thread(partial(self._render, prompt))

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None,
    ) -> Mapping[str, Any]:
        extras = {"mm_processor_kwargs": dict(processor_kwargs), "cache_salt": cache_salt}
        variables = {name: value for name, value in template_kwargs.items() if name != "tokenize"}
        parsed = await self._messages.parse(messages, template, variables)

        def render() -> Mapping[str, Any]:
            prompt = {**parsed(), **{name: value for name, value in extras.items() if value}}
            return self._render(prompt, add_special_tokens=False)  # a template writes the special tokens by itself

        return await self._in_thread(render)

    def forget_media(self) -> None:
        if self._preprocessor.mm_processor_cache is not None:
            self._thread.submit(self._preprocessor.mm_processor_cache.clear_cache)

    @property
    def longest_token(self) -> int | None:
        """Characters of the longest token; None where there is no tokenizer."""
        vocabulary = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        return max(map(len, vocabulary), default=None)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """In the one thread that renders, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _render(self, prompt: Mapping[str, Any], **tokenization: Any) -> Mapping[str, Any]:
        uuids = prompt.get("multi_modal_uuids")
        rendered = self._preprocessor.preprocess(dict(prompt), tokenization_kwargs=tokenization or None, mm_uuids=uuids)
        # The text is said again with each output; versions differ in whether they keep it.
        kept = {name: prompt[name] for name in ("prompt", "cache_salt") if prompt.get(name)}
        return {**rendered, **kept}


_Parsed = Callable[[], Mapping[str, Any]]


class _Messages:
    """By functions that vLLM up to 0.13 has."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer

    async def parse(
        self, messages: Sequence[Mapping[str, Any]], template: str | None, variables: Mapping[str, Any]
    ) -> _Parsed:
        """What gives the prompt dictionary of messages whose media have been loaded; it may take long."""
        content_format = find("resolve_chat_template_content_format", _CHAT_UTILS)(
            template, variables.get("tools"), "auto", self._tokenizer, model_config=self._config
        )
        parse = find("parse_chat_messages_futures", _CHAT_UTILS)
        given = {"messages": list(messages), "model_config": self._config, "content_format": content_format}
        if "tokenizer" in inspect.signature(parse).parameters:
            given["tokenizer"] = self._tokenizer
        conversation, promised, uuids = parse(**given)
        media = with_joined_embeds(await promised)
        found = {"multi_modal_data": media, "multi_modal_uuids": uuids}

        def through_template() -> Mapping[str, Any]:
            text = self._through_template(messages, conversation, template, variables)
            # What a tokenizer of Mistral's gives is tokens.
            prompt = {"prompt": text} if isinstance(text, str) else {"prompt_token_ids": text}
            return {**prompt, **{name: value for name, value in found.items() if value}}

        return through_template

    def _through_template(
        self, messages: Any, conversation: Any, template: str | None, variables: Mapping[str, Any]
    ) -> Any:
        given = {"chat_template": template, "tools": None, **variables}
        if hasattr(self._tokenizer, "mistral"):
            return find("apply_mistral_chat_template", _CHAT_UTILS)(self._tokenizer, list(messages), **given)
        apply = find("apply_hf_chat_template", _CHAT_UTILS)
        return apply(self._tokenizer, conversation, model_config=self._config, **given)


class _RenderersMessages:
    """By the renderer of vLLM 0.16, which gives prompts that are neither tokenized nor processed."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    async def parse(
        self, messages: Sequence[Mapping[str, Any]], template: str | None, variables: Mapping[str, Any]
    ) -> _Parsed:
        params = find("ChatParams", "vllm.renderers.params", "vllm.renderers")(
            chat_template=template, chat_template_kwargs={**variables, "tokenize": False}
        )
        _, prompt = await self._renderer.render_messages_async(list(messages), params)
        if media := prompt.get("multi_modal_data"):
            prompt = {**prompt, "multi_modal_data": with_joined_embeds(media)}
        return lambda: cast(Mapping[str, Any], prompt)


def with_joined_embeds(media: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Embedded images of chat messages in the form of a text prompt's: for each field, the rows of all images.

    vLLM up to 0.16 stacks what has the same shape, and takes the field of a single image as it is; one it refuses,
    of the others its engine dies.
    """
    images = (media or {}).get("image")
    if media is None or not isinstance(images, Mapping):
        return media
    import torch

    joined = {}
    for name, given in images.items():
        fields = given if isinstance(given, list) else [given]
        joined[name] = torch.cat([field.reshape(-1, field.shape[-1]) for field in fields])
    return {**media, "image": joined}


def chat_template_of(tokenizer: Any, config: Any) -> str | None:
    """The chat template that vLLM would use for a model."""
    resolve = find("resolve_hf_chat_template", _CHAT_UTILS)
    return cast("str | None", resolve(tokenizer, chat_template=None, tools=None, model_config=config))


def _own_cache(preprocessor: Any, config: Any) -> Any:
    """A cache of processed media that is not shared with the engine; None where there is none at all."""
    if preprocessor.mm_processor_cache is None:
        return None
    from vllm.multimodal.cache import MultiModalProcessorOnlyCache

    return MultiModalProcessorOnlyCache(config)


def _pass_what_is_rendered(preprocessor: Any) -> None:
    """Have ``generate`` take what has been rendered as it is."""
    preprocess = preprocessor.preprocess

    def pass_or_preprocess(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        return prompt if isinstance(prompt, dict) and _RENDERED in prompt else preprocess(prompt, *args, **kwargs)

    preprocessor.preprocess = pass_or_preprocess
