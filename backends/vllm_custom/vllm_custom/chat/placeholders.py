"""Media placeholders in a prompt that the client wrote: which text they are, how many there are and should be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from vllm_custom.errors import InvalidRequestError

# More of them than any prompt has items: each is asked of the model's processor, which writes out all before it.
_MOST_NUMBERED = 1024

PlaceholderText = Callable[[str, int], str | None]


class Placeholders:
    """What stands for media in prompts of one model."""

    def __init__(self, placeholder_text: PlaceholderText, modalities: Iterable[str]) -> None:
        """
        Args:
            placeholder_text: modality and number of an item (from 1) to the text that stands for it; None where the
                model's processor puts media in by itself. May be slow: each answer is kept.
            modalities: what the model takes.
        """
        self._text = functools.cache(placeholder_text)
        self._modalities = tuple(modalities)

    def needed(self, modality: str) -> bool:
        """Whether a prompt has to have a placeholder for each item."""
        return self._text(modality, 1) is not None

    def count(self, text: str) -> dict[str, int]:
        """Modality to the number of its placeholders in ``text``."""
        return {modality: self._count(text, modality) for modality in self._modalities}

    def check(self, found: Mapping[str, int], items: Mapping[str, int]) -> None:
        """Compare the placeholders of a prompt with the items that were sent.

        Raises:
            InvalidRequestError: says how many of which were expected.
        """
        for modality, placeholders in found.items():
            expected = items.get(modality, 0)
            if placeholders != expected and self.needed(modality):
                raise InvalidRequestError(
                    f"text_input: expected {expected} {modality} placeholder(s) ({self._example(modality, expected)}), "
                    f"one for each {modality} that was sent, got {placeholders}; without any placeholder the chat "
                    f"template puts the media before the text"
                )

    def _count(self, text: str, modality: str) -> int:
        first, second = self._text(modality, 1), self._text(modality, 2)
        if first is None or first == second:
            return text.count(first) if first else 0
        count = 0  # models that number their placeholders: <|image_1|>, <|image_2|>, ...
        while count < _MOST_NUMBERED and (following := self._text(modality, count + 1)) and following in text:
            count += 1
        return count

    def _example(self, modality: str, expected: int) -> str:
        first, second = self._text(modality, 1), self._text(modality, 2)
        return f"{first}, {second}, ..." if first != second and expected > 1 else str(first)
