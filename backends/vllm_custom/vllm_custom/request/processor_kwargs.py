"""mm_processor_kwargs: the operator's, except that everybody may have images reduced further than the model does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.errors import InvalidRequestError, invalid, shorten
from vllm_custom.request.rules import ClientRules

_MAX_PIXELS = "max_pixels"
_FRAMES = frozenset({"num_frames", "fps"})


def check_processor_kwargs(kwargs: Mapping[str, Any], rules: ClientRules, name: str = "mm_processor_kwargs") -> None:
    """Refuse what could make the model's media processor do more work, or other work, than the operator chose.

    Raises:
        InvalidRequestError: names the key, and what is allowed.
    """
    if rules.trust_mm_kwargs:
        return
    for key, value in kwargs.items():
        if key == _MAX_PIXELS:
            _check_pixels(value, rules, f"{name}.{key}")
        elif key in _FRAMES:
            raise InvalidRequestError(
                f'{name}: {key} belongs in media_io_kwargs: {{"video": {{"num_frames": ..., "fps": ...}}}}'
            )
        else:
            raise InvalidRequestError(
                f"{name}: {shorten(key)} may not be set by clients (TRUST_REQUEST_MM_KWARGS of this model is false); "
                f"expected {_MAX_PIXELS} only"
            )


def _check_pixels(value: Any, rules: ClientRules, name: str) -> None:
    smallest = rules.processor.min_pixels or 1
    largest = rules.processor.max_pixels or rules.limits["IMAGE_MAX_PIXELS"]
    if type(value) is not int or not smallest <= value <= largest:
        raise invalid(name, value, f"a whole number from {smallest} to {largest}")
