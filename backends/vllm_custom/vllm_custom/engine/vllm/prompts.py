"""Prompts, by vLLM's renderers and the model's chat template."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy.typing as npt

from vllm_custom.engine.vllm.older import find, has
from vllm_custom.engine.vllm.older.rendering import OlderRendering, renders_in_generate
from vllm_custom.engine.vllm.older.rendering import chat_template_of as older_chat_template_of

_RENDERING = "vllm_custom_rendering"
_RESOLVE, _HF_RENDERER = "resolve_chat_template", "vllm.renderers.hf"


class Rendering(Protocol):
    """What makes the engine's input of the prompts for one AsyncLLM."""

    tokenizer: Any

    def media_processor(self) -> Any:
        """vLLM's processor of the model's media."""

    async def text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tokenize a prompt dictionary and process its media off the event loop.

        Args:
            prompt: ``prompt``, ``prompt_token_ids`` or ``prompt_embeds``, with optional ``multi_modal_data``,
                ``multi_modal_uuids``, ``mm_processor_kwargs`` and ``cache_salt``.

        Returns:
            The engine's input, with ``prompt_token_ids`` where they are known.
        """

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None,
    ) -> Mapping[str, Any]:
        """Put messages whose media are handles through the template.

        Returns:
            The engine's input, with ``prompt_token_ids``, and the text after the template as ``prompt``.
        """

    def forget_media(self) -> None:
        """Empty the cache of processed media."""

    @property
    def longest_token(self) -> int | None:
        """Characters of the longest token; None where there is no tokenizer."""


def rendering(llm: Any) -> Rendering:
    """How prompts for ``llm`` are rendered: the same object for each call."""
    found = vars(llm).get(_RENDERING)
    if found is None:
        found = vars(llm)[_RENDERING] = OlderRendering(llm) if renders_in_generate(llm) else _VllmsRendering(llm)
    return cast(Rendering, found)


class _VllmsRendering:
    """By vLLM's own renderer."""

    def __init__(self, llm: Any) -> None:
        self._config = llm.model_config
        self._renderer = llm.renderer

    @property
    def tokenizer(self) -> Any:
        return self._renderer.tokenizer

    def media_processor(self) -> Any:
        return self._renderer.get_mm_processor()

    async def text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        parsed = parse_model_prompt(self._config, dict(prompt))
        (rendered,) = await self._renderer.render_cmpl_async([parsed], self._renderer.default_cmpl_tok_params)
        return cast(Mapping[str, Any], rendered)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None,
    ) -> Mapping[str, Any]:
        from vllm.renderers.params import ChatParams

        params = ChatParams(
            chat_template=template,
            # The template gives text, whose length vLLM compares with the context before it tokenizes.
            chat_template_kwargs={**template_kwargs, "tokenize": False},
            mm_processor_kwargs=dict(processor_kwargs) or None,
        )
        extras = {"mm_processor_kwargs": dict(processor_kwargs) or None, "cache_salt": cache_salt}
        given = {name: value for name, value in extras.items() if value is not None}
        _, (rendered,) = await self._renderer.render_chat_async([list(messages)], params, prompt_extras=given or None)
        return cast(Mapping[str, Any], rendered)

    def forget_media(self) -> None:
        self._renderer.clear_mm_cache()

    @property
    def longest_token(self) -> int | None:
        return cast("int | None", getattr(self.tokenizer, "max_chars_per_token", None))


def chat_template_of(engine: Any) -> str | None:
    """The chat template that vLLM would use for this model, or None if it has none."""
    tokenizer, config = rendering(engine).tokenizer, engine.model_config
    if not has(_RESOLVE, _HF_RENDERER):
        return older_chat_template_of(tokenizer, config)
    resolve = find(_RESOLVE, _HF_RENDERER)
    return cast("str | None", resolve(tokenizer, chat_template=None, tools=None, model_config=config))


def placeholder(engine: Any, modality: str, number: int) -> str | None:
    """The text that stands for the ``number``-th (from 1) item of ``modality`` in a prompt of this model.

    It is what the model's processor looks for. None where it looks for nothing, and puts the media in by itself.
    """
    dummy = rendering(engine).media_processor().dummy_inputs
    before, all_of_them = (dummy.get_dummy_text({modality: count}) for count in (number - 1, number))
    text = cast(str, all_of_them).removeprefix(before)
    token_id = getattr(engine.model_config.hf_config, f"{modality}_token_id", None)
    token = rendering(engine).tokenizer.decode([token_id]) if isinstance(token_id, int) else None
    # Without the marks around it where there are any: a prompt that has the token alone counts as well.
    return token if token and text.count(token) == 1 else text or None


def embeds_size(engine: Any) -> int | None:
    """Hidden size of embeddings that may take a prompt's place; None where enable_prompt_embeds is off."""
    config = engine.model_config
    return int(config.get_hidden_size()) if getattr(config, "enable_prompt_embeds", False) else None


def as_prompt(engine: Any, array: npt.NDArray[Any]) -> Any:
    """Embeddings as a torch tensor of the model's own type."""
    import torch

    return torch.from_numpy(array).to(engine.model_config.dtype)


def max_prompt_chars(engine: Any) -> int | None:
    """Characters that a prompt may have before it is tokenised, as vLLM counts: max_model_len times the longest token.

    None where the engine has no tokenizer.
    """
    longest = rendering(engine).longest_token
    return None if longest is None else int(engine.model_config.max_model_len) * longest


@functools.cache
def template_arguments() -> frozenset[str]:
    """Names of the arguments of what applies a chat template, which are no variables of the template."""
    import inspect

    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    applying: list[Any] = [PreTrainedTokenizerBase.apply_chat_template, ProcessorMixin.apply_chat_template]
    with contextlib.suppress(ImportError):  # older versions of vLLM have another
        applying.append(find("safe_apply_chat_template", _HF_RENDERER))
    return frozenset(name for function in applying for name in inspect.signature(function).parameters)
