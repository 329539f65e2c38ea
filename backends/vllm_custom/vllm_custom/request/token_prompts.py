"""Prompts that are no text: token ids, and embeddings of tokens. Checked before anything is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import INPUT_IDS, PROMPT_EMBEDS
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors

_EMBEDS_TYPES = (np.float16, np.float32)


def read_token_ids(tensors: Tensors, rules: ClientRules) -> list[int] | None:
    """The input ``input_ids``; None where it is absent. The engine knows which ids there are.

    Raises:
        InvalidRequestError: no whole numbers, none at all, or more than the context holds.
    """
    if INPUT_IDS not in tensors:
        return None
    ids = tensors[INPUT_IDS].reshape(-1)
    if not np.issubdtype(ids.dtype, np.integer) or not ids.size:
        raise InvalidRequestError(
            f"{INPUT_IDS}: expected INT32 or INT64, at least one, got {_shown(tensors[INPUT_IDS])}"
        )
    _check_length(INPUT_IDS, ids.size, "token ids", rules)
    return [int(token) for token in ids]


def read_prompt_embeds(tensors: Tensors, rules: ClientRules) -> npt.NDArray[Any] | None:
    """The input ``prompt_embeds``, copied: the request's own memory is Triton's. None where it is absent.

    Raises:
        InvalidRequestError: a shape, type or value that no model takes, or another hidden size than this model's, which
            would end the engine.
    """
    if PROMPT_EMBEDS not in tensors:
        return None
    values = tensors[PROMPT_EMBEDS]
    size = rules.prompt_embeds_size
    if size is None:
        raise InvalidRequestError(
            f'{PROMPT_EMBEDS}: this model accepts none; "enable_prompt_embeds": true in model.json allows them'
        )
    if values.dtype not in _EMBEDS_TYPES or values.ndim != 2 or not values.size or values.shape[1] != size:
        raise InvalidRequestError(
            f"{PROMPT_EMBEDS}: expected FP16 or FP32 [tokens, {size}], {size} being the hidden size of this model, got "
            f"{_shown(values)}"
        )
    _check_length(PROMPT_EMBEDS, len(values), "rows", rules)
    if not np.isfinite(values).all():
        raise InvalidRequestError(f"{PROMPT_EMBEDS}: contains non-finite values (NaN or infinity)")
    return np.array(values)


def _check_length(name: str, length: int, unit: str, rules: ClientRules) -> None:
    most = rules.max_prompt_tokens
    if most is not None and length > most:
        raise InvalidRequestError(f"{name}: expected at most {most} {unit} (max_model_len of this model), got {length}")


def _shown(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
