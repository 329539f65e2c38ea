"""Prompts, by vLLM's renderers and the model's chat template."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy.typing as npt


async def render_text(llm: Any, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tokenize a prompt dictionary and process its media off the event loop.

    Args:
        llm: the AsyncLLM.
        prompt: ``prompt``, ``prompt_token_ids`` or ``prompt_embeds``, with optional ``multi_modal_data``,
            ``multi_modal_uuids``, ``mm_processor_kwargs`` and ``cache_salt``.

    Returns:
        The engine's input, with ``prompt_token_ids`` where they are known.
    """
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    renderer = llm.renderer
    parsed = parse_model_prompt(llm.model_config, dict(prompt))
    (rendered,) = await renderer.render_cmpl_async([parsed], renderer.default_cmpl_tok_params)
    return cast(Mapping[str, Any], rendered)


async def render_chat(
    llm: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None,
    template_kwargs: Mapping[str, Any],
    processor_kwargs: Mapping[str, Any],
    cache_salt: str | None = None,
) -> Mapping[str, Any]:
    """Put messages whose media are handles through the template.

    Returns:
        The engine's input, with ``prompt_token_ids``, and the text after the template as ``prompt``.
    """
    from vllm.renderers.params import ChatParams

    params = ChatParams(
        chat_template=template,
        # The template gives text, whose length vLLM compares with the context before it tokenizes.
        chat_template_kwargs={**template_kwargs, "tokenize": False},
        mm_processor_kwargs=dict(processor_kwargs) or None,
    )
    extras = {"mm_processor_kwargs": dict(processor_kwargs) or None, "cache_salt": cache_salt}
    given = {name: value for name, value in extras.items() if value is not None}
    _, (rendered,) = await llm.renderer.render_chat_async([list(messages)], params, prompt_extras=given or None)
    return cast(Mapping[str, Any], rendered)


def chat_template_of(engine: Any) -> str | None:
    """The chat template that vLLM would use for this model, or None if it has none."""
    from vllm.renderers.hf import resolve_chat_template

    return cast(
        "str | None",
        resolve_chat_template(engine.get_tokenizer(), chat_template=None, tools=None, model_config=engine.model_config),
    )


def placeholder(engine: Any, modality: str, number: int) -> str | None:
    """The text that stands for the ``number``-th (from 1) item of ``modality`` in a prompt of this model.

    It is what the model's processor looks for. None where it looks for nothing, and puts the media in by itself.
    """
    dummy = engine.renderer.get_mm_processor().dummy_inputs
    before, all_of_them = (dummy.get_dummy_text({modality: count}) for count in (number - 1, number))
    text = cast(str, all_of_them).removeprefix(before)
    token_id = getattr(engine.model_config.hf_config, f"{modality}_token_id", None)
    token = engine.get_tokenizer().decode([token_id]) if isinstance(token_id, int) else None
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
    tokenizer = engine.renderer.tokenizer
    longest = getattr(tokenizer, "max_chars_per_token", None)
    return None if longest is None else int(engine.model_config.max_model_len) * int(longest)


@functools.cache
def template_arguments() -> frozenset[str]:
    """Names of the arguments of what applies a chat template, which are no variables of the template."""
    import inspect

    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    applying: list[Any] = [PreTrainedTokenizerBase.apply_chat_template, ProcessorMixin.apply_chat_template]
    with contextlib.suppress(ImportError):  # older versions of vLLM have it elsewhere, or not at all
        from vllm.renderers.hf import safe_apply_chat_template

        applying.append(safe_apply_chat_template)
    return frozenset(name for function in applying for name in inspect.signature(function).parameters)
