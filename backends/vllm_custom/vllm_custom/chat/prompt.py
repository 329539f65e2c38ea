"""Render a call into the engine's input: as it is, or through the model's chat template."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_custom import compat
from vllm_custom.chat import messages as chat_messages
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.media import DecodedMedia, HandleTable, MediaLoader
from vllm_custom.media.loader import MediaElement
from vllm_custom.request import GenerateCall


@dataclass(frozen=True)
class RenderedPrompt:
    """The engine's input, and whether it went through the chat template."""

    engine_input: Mapping[str, Any]
    templated: bool

    @property
    def text(self) -> str:
        """The prompt as text; empty where only tokens are known."""
        return str(self.engine_input.get("prompt") or "")


@dataclass(frozen=True)
class PromptPlan:
    """How a prompt will be made: through the template (``messages``) or as it is (None), and its media."""

    templated: bool
    messages: Sequence[Mapping[str, Any]] | None
    elements: Sequence[MediaElement]


class PromptBuilder:
    """Renders prompts for one engine."""

    def __init__(
        self,
        engine: Any,
        media: MediaLoader,
        handles: HandleTable,
        template: str | None,
        *,
        add_generation_prompt: bool = True,
    ) -> None:
        """
        Args:
            engine: the AsyncLLM.
            media: loads what a prompt needs.
            handles: where decoded media wait for the template.
            template: replaces the model's own chat template.
            add_generation_prompt: what holds where a request does not say it.
        """
        self._engine = engine
        self._add_generation_prompt = add_generation_prompt
        self._media = media
        self._handles = handles
        self._template = template
        self._placeholder = functools.cache(functools.partial(compat.placeholder, engine))
        self._has_template = template is not None or compat.chat_template_of(engine) is not None

    def plan(self, call: GenerateCall) -> PromptPlan:
        """Decide, before any media are decoded, how the prompt is made.

        Raises:
            InvalidRequestError: too many media, placeholders that do not match them, or malformed messages.
            UnsupportedError: a template is needed and the model has none.
        """
        if call.messages is not None:
            messages = call.messages
            elements = chat_messages.media_elements(messages)
        else:
            text = call.text or ""
            elements = [
                MediaElement(modality, f"{modality}[{index}]", raw)
                for modality, raws in call.media.items()
                for index, raw in enumerate(raws)
            ]
            messages = chat_messages.user_turn(text, elements)
        self._media.check_counts(elements)
        templated = call.templated
        if call.messages is None and not templated:
            found = {modality: self._count(text, modality) for modality in self._media.modalities}
            templated = bool(elements) and not any(found.values()) if templated is None else templated
            if not templated:
                self._check_placeholders(found, elements)
        if templated and not self._has_template:
            raise UnsupportedError(
                "this model has no chat template: send text_input with placeholders, or set CHAT_TEMPLATE"
            )
        return PromptPlan(bool(templated), messages if templated else None, elements)

    async def render(self, call: GenerateCall, plan: PromptPlan) -> RenderedPrompt:
        """Decode the media and render the prompt.

        Raises:
            InvalidRequestError: media that are refused, or messages that the template refuses.
        """
        decoded = await self._media.load(plan.elements)
        if plan.messages is not None:
            return await self._render_chat(call, plan.messages, decoded)
        return await self._render_text(call, plan.elements, decoded)

    async def _render_text(
        self, call: GenerateCall, elements: Sequence[MediaElement], decoded: Sequence[DecodedMedia]
    ) -> RenderedPrompt:
        prompt: dict[str, Any] = {"prompt": call.text or ""}
        if call.token_ids is not None:
            prompt = {"prompt_token_ids": list(call.token_ids)}
        if decoded:
            prompt["multi_modal_data"] = _by_modality(elements, [item.data for item in decoded])
            prompt["multi_modal_uuids"] = _by_modality(elements, [item.uuid for item in decoded])
        if call.control.mm_processor_kwargs:
            prompt["mm_processor_kwargs"] = call.control.mm_processor_kwargs
        return RenderedPrompt(await compat.render_text(self._engine, prompt, templated=False), templated=False)

    async def _render_chat(
        self, call: GenerateCall, messages: Sequence[Mapping[str, Any]], decoded: Sequence[DecodedMedia]
    ) -> RenderedPrompt:
        add = call.control.add_generation_prompt
        opening = {"add_generation_prompt": self._add_generation_prompt if add is None else add}
        with self._handles.lend(decoded) as handles:
            rendered = await compat.render_chat(
                self._engine,
                chat_messages.with_handles(messages, handles, [item.uuid for item in decoded]),
                template=self._template,
                template_kwargs=opening | call.control.chat_template_kwargs,
                processor_kwargs=call.control.mm_processor_kwargs,
                keep_text=call.exclude_input is False,
            )
        return RenderedPrompt(rendered, templated=True)

    def _count(self, text: str, modality: str) -> int:
        first, second = self._placeholder(modality, 1), self._placeholder(modality, 2)
        if not first or not second:
            return 0
        if first == second:
            return text.count(first)
        count = 0  # models that number their placeholders: <|image_1|>, <|image_2|>, ...
        while (following := self._placeholder(modality, count + 1)) and following in text:
            count += 1
        return count

    def _check_placeholders(self, found: Mapping[str, int], elements: Sequence[MediaElement]) -> None:
        for modality, placeholders in found.items():
            items = sum(element.modality == modality for element in elements)
            if items != placeholders:
                token = self._placeholder(modality, 1)
                raise InvalidRequestError(
                    f"text_input: has {placeholders} {modality} placeholder(s) {token!r}, but {items} {modality} "
                    f"item(s) were sent; expected as many placeholders as items, or none at all"
                )


def _by_modality(elements: Sequence[MediaElement], values: Sequence[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for element, value in zip(elements, values, strict=True):
        grouped.setdefault(element.modality, []).append(value)
    return grouped
