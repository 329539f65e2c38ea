"""What a client may set and how much of it, for one model. Pure: made once from the model's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_custom.contract.config import CONFIG_PARAMETERS
from vllm_custom.errors import invalid

if TYPE_CHECKING:
    from vllm_custom.contract.settings import Settings


@dataclass(frozen=True)
class ProcessorBounds:
    """Pixels of an image by the model's own media processor; None where it does not say.

    Attributes:
        min_pixels: what smaller images are enlarged to.
        max_pixels: what larger images are reduced to.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None


def _default_limits() -> dict[str, int]:
    return {spec.name: int(spec.default) for spec in CONFIG_PARAMETERS if isinstance(spec.default, int)}


@dataclass(frozen=True)
class ClientRules:
    """The limits and trust of one model; what is not given is as strict as the table's defaults.

    Attributes:
        limits: the whole numbers of config.pbtxt by the names of their parameters.
        trust_chat_template: TRUST_REQUEST_CHAT_TEMPLATE.
        trust_mm_kwargs: TRUST_REQUEST_MM_KWARGS.
        trusted: TRUSTED_PARAMETERS.
        template_arguments: names of arguments of what applies a chat template, which are no variables of the template.
        processor: bounds of the model's media processor.
        max_prompt_chars: characters that a prompt may have, since more cannot fit into the model's context; None where
            the model has no tokenizer.
        max_prompt_tokens: tokens of the model's context; None where that is unknown.
        prompt_embeds_size: hidden size of embeddings in place of a prompt; None where the engine takes none.
    """

    limits: Mapping[str, int] = field(default_factory=_default_limits)
    trust_chat_template: bool = False
    trust_mm_kwargs: bool = False
    trusted: frozenset[str] = frozenset()
    template_arguments: frozenset[str] = frozenset()
    processor: ProcessorBounds = ProcessorBounds()
    max_prompt_chars: int | None = None
    max_prompt_tokens: int | None = None
    prompt_embeds_size: int | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        template_arguments: frozenset[str] = frozenset(),
        processor: ProcessorBounds | None = None,
        max_prompt_chars: int | None = None,
        max_prompt_tokens: int | None = None,
        prompt_embeds_size: int | None = None,
    ) -> ClientRules:
        """The rules that config.pbtxt makes, with what the engine says about itself."""
        return cls(
            limits={name: int(getattr(settings, name.lower())) for name in _default_limits()},
            trust_chat_template=settings.trust_request_chat_template,
            trust_mm_kwargs=settings.trust_request_mm_kwargs,
            trusted=frozenset(settings.trusted_parameters),
            template_arguments=template_arguments,
            processor=processor or ProcessorBounds(),
            max_prompt_chars=max_prompt_chars,
            max_prompt_tokens=max_prompt_tokens,
            prompt_embeds_size=prompt_embeds_size,
        )

    def check(self, name: str, number: int, limit: str, unit: str) -> None:
        """Refuse more than ``limit``, the name of a config parameter, allows.

        Raises:
            InvalidRequestError: names ``name``, the number and the parameter.
        """
        most = self.limits[limit]
        if number > most:
            raise invalid(name, number, f"at most {most} {unit} ({limit} of this model)")
