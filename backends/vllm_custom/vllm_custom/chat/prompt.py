"""Render a call into the engine's input: as it is, or through the model's chat template."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from vllm_custom.chat import messages as chat_messages
from vllm_custom.chat.placeholders import Placeholders
from vllm_custom.chat.spelling import as_chat
from vllm_custom.contract.names import MESSAGES, TEXT_INPUT
from vllm_custom.engine.embeds import ImageEmbeds
from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.elements import DecodedMedia, MediaElement
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.request import InferenceCall
from vllm_custom.request.template_kwargs import TEMPLATE
from vllm_custom.runtime.async_utils import time_limit

# Request parameters that mean something to a chat template alone.
_OF_TEMPLATES = ("documents", "tools")


@dataclass(frozen=True)
class RenderedPrompt:
    """The engine's input, and whether it went through the chat template."""

    engine_input: Mapping[str, Any]
    templated: bool

    @property
    def text(self) -> str:
        """The prompt as text; empty where only tokens are known."""
        return str(self.engine_input.get("prompt") or "")

    @property
    def tokens(self) -> int:
        """How many tokens the prompt has."""
        ids, embeds = self.engine_input.get("prompt_token_ids"), self.engine_input.get("prompt_embeds")
        return len(ids or ()) if embeds is None else len(embeds)


@dataclass(frozen=True)
class PromptPlan:
    """How a prompt will be made: through the template (``messages``) or as it is (None), and its media.

    ``frames`` says which frames are taken of videos; ``embedded`` has the fields of each image that came embedded,
    by vLLM's names; ``tools`` are for the template.
    """

    templated: bool
    messages: Sequence[Mapping[str, Any]] | None
    elements: Sequence[MediaElement]
    frames: FrameSampling
    embedded: Sequence[Mapping[str, npt.NDArray[Any]]] = ()
    tools: Sequence[Mapping[str, Any]] | None = None


class PromptBuilder:
    """Renders prompts for one engine."""

    def __init__(
        self,
        engine: Engine,
        media: MediaLoader,
        handles: MediaHandles,
        template: str | None,
        *,
        add_generation_prompt: bool = True,
        render_seconds: float = 30.0,
    ) -> None:
        """
        Args:
            engine: tokenizes, and applies the template.
            media: loads what a prompt needs.
            handles: where decoded media wait for the template.
            template: replaces the model's own chat template.
            add_generation_prompt: what holds where a request does not say it.
            render_seconds: RENDER_TIMEOUT_SECONDS.
        """
        self._engine = engine
        self._add_generation_prompt = add_generation_prompt
        self._render_seconds = render_seconds
        self._media = media
        self._handles = handles
        self._template = template
        self._embeds_layout = functools.cache(engine.embeds_layout)
        self._placeholders = Placeholders(engine.placeholder, media.modalities)
        self._has_template = template is not None or engine.facts.has_chat_template

    def plan(self, call: InferenceCall) -> PromptPlan:
        """Decide, before any media are decoded, how the prompt is made.

        Raises:
            InvalidRequestError: too many media or frames, placeholders that do not match, or malformed messages.
            UnsupportedError: a template is needed and the model has none.
        """
        if call.messages is not None:
            messages: Sequence[Mapping[str, Any]] = as_chat(call.messages)
            elements = chat_messages.media_elements(messages)
        else:
            text = call.text or ""
            elements = [
                MediaElement(modality, f"{modality}[{index}]", raw)
                for modality, raws in call.media.items()
                for index, raw in enumerate(raws)
            ]
            messages = chat_messages.user_message(text, elements)
        counts = Counter(element.modality for element in elements)
        self._media.check_counts(counts)
        control = call.control
        frames = self._media.frames(FrameSampling.requested(control.num_frames, control.fps, control.media_io_kwargs))
        embedded = self._embedded(call.embeds, counts) if call.embeds is not None else []
        templated = call.templated
        if call.messages is None and not templated:
            found = self._placeholders.count(text)
            templated = self._needs_template(counts, found) if templated is None else templated
            if not templated:
                self._placeholders.check(found, counts)
        if templated and not (self._has_template or TEMPLATE in control.chat_template_kwargs):
            raise UnsupportedError(
                "this model has no chat template: send text_input with placeholders, or set CHAT_TEMPLATE"
            )
        for name in _OF_TEMPLATES:
            if not templated and getattr(control, name) is not None:
                raise InvalidRequestError(
                    f"{name}: requires the chat template (messages, or apply_chat_template: true)"
                )
        return PromptPlan(bool(templated), messages if templated else None, elements, frames, embedded)

    def _embedded(self, embeds: ImageEmbeds, counts: Counter[str]) -> list[dict[str, npt.NDArray[Any]]]:
        """The fields of each embedded image, checked; they are added to ``counts``."""
        layout = self._embeds_layout()
        if layout is not None:  # looks at each image
            self._media.check_counts({"image": embeds.count}, embedded=True)
        embeds.check(layout)
        counts["image"] = embeds.count
        return embeds.per_image(layout.merge if layout else None)

    def _needs_template(self, counts: Mapping[str, int], found: Mapping[str, int]) -> bool:
        """Whether the template has to put the media in; models whose processor does so may have no template."""
        if not counts or any(found.values()):
            return False
        return self._has_template or any(self._placeholders.needed(modality) for modality in counts)

    async def render(self, call: InferenceCall, plan: PromptPlan) -> RenderedPrompt:
        """Decode the media and render the prompt.

        Raises:
            InvalidRequestError: media that are refused, or messages that the template refuses.
        """
        with await self._media.load(plan.elements, plan.frames) as decoded:
            try:
                async with time_limit(self._render_seconds):
                    return await self._render(call, plan, decoded)
            except asyncio.TimeoutError as error:
                raise InvalidRequestError(
                    f"{MESSAGES if plan.templated else TEXT_INPUT}: expected a prompt that is rendered within "
                    f"{self._render_seconds:g} seconds (RENDER_TIMEOUT_SECONDS of this model), got a slower one"
                ) from error

    async def _render(self, call: InferenceCall, plan: PromptPlan, decoded: Sequence[DecodedMedia]) -> RenderedPrompt:
        as_tensor = self._engine.embeds_tensor
        embedded = [{name: as_tensor(field) for name, field in image.items()} for image in plan.embedded]
        if plan.messages is None:
            return await self._render_text(call, plan.elements, decoded, embedded)
        tensors = [tensor for image in embedded for tensor in image.values()]
        with self._handles.register([*(item.data for item in decoded), *tensors]) as handles:
            media, rest = handles[: len(decoded)], handles[len(decoded) :]
            messages = chat_messages.with_handles(plan.messages, media, [item.uuid for item in decoded])
            messages = chat_messages.with_embeds(messages, [list(image) for image in embedded], rest)
            return await self._render_chat(call, messages, plan)

    async def _render_text(
        self,
        call: InferenceCall,
        elements: Sequence[MediaElement],
        decoded: Sequence[DecodedMedia],
        embedded: Sequence[Mapping[str, Any]],
    ) -> RenderedPrompt:
        prompt: dict[str, Any] = {"prompt": call.text or ""}
        if call.token_ids is not None:
            prompt = {"prompt_token_ids": list(call.token_ids)}
        if call.prompt_embeds is not None:
            prompt = {"prompt_embeds": self._engine.prompt_tensor(call.prompt_embeds)}
        if call.control.cache_salt is not None:
            prompt["cache_salt"] = call.control.cache_salt
        if decoded:
            prompt["multi_modal_data"] = _by_modality(elements, [item.data for item in decoded])
            prompt["multi_modal_uuids"] = _by_modality(elements, [item.uuid for item in decoded])
        if embedded:
            prompt.setdefault("multi_modal_data", {})["image"] = self._engine.join_embeds(embedded)
            prompt.setdefault("multi_modal_uuids", {})["image"] = [None] * len(embedded)  # vLLM hashes them itself
        if kwargs := self._processor_kwargs(call, elements):
            prompt["mm_processor_kwargs"] = kwargs
        return RenderedPrompt(await self._engine.render_text(prompt), templated=False)

    def _processor_kwargs(self, call: InferenceCall, elements: Sequence[MediaElement]) -> dict[str, Any]:
        return {**self._media.processor_kwargs(elements), **call.control.mm_processor_kwargs}

    async def _render_chat(
        self, call: InferenceCall, messages: Sequence[Mapping[str, Any]], plan: PromptPlan
    ) -> RenderedPrompt:
        add, goes_on = call.control.add_generation_prompt, call.control.continue_final_message
        opening = {
            "add_generation_prompt": self._add_generation_prompt and not goes_on if add is None else add,
            "continue_final_message": goes_on,
        }
        lists = {
            name: value
            for name, value in (("documents", call.control.documents), ("tools", plan.tools))
            if value is not None
        }
        rendered = await self._engine.render_chat(
            messages,
            template=call.control.chat_template_kwargs.get(TEMPLATE, self._template),
            template_kwargs=opening | lists | call.control.chat_template_kwargs,
            processor_kwargs=self._processor_kwargs(call, plan.elements),
            cache_salt=call.control.cache_salt,
        )
        return RenderedPrompt(rendered, templated=True)


def _by_modality(elements: Sequence[MediaElement], values: Sequence[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for element, value in zip(elements, values, strict=True):
        grouped.setdefault(element.modality, []).append(value)
    return grouped
