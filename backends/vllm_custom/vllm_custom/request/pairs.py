"""Pairs of texts to score: the inputs ``queries`` and ``documents``."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_custom.contract.names import DOCUMENTS, QUERIES
from vllm_custom.errors import InvalidRequestError, invalid
from vllm_custom.kernel.tensors import decode
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors


@dataclass(frozen=True)
class TextPairs:
    """One query for all documents, or one for each of them; there is at least one document."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]


def read_pairs(tensors: Tensors, rules: ClientRules) -> TextPairs | None:
    """The pairs among ``tensors`` (one row, no batch dimension); None where both inputs are absent.

    Raises:
        InvalidRequestError: one input without the other, none or too many elements, numbers that do not match, or no
            UTF-8.
    """
    given = [name for name in (QUERIES, DOCUMENTS) if name in tensors]
    if not given:
        return None
    if len(given) == 1:
        raise InvalidRequestError(f"{QUERIES} and {DOCUMENTS} require each other; the request has only {given[0]}")
    queries, documents = (_texts(tensors, name, rules) for name in given)
    if len(queries) not in (1, len(documents)):
        raise invalid(QUERIES, f"{len(queries)} elements", f"1 element, or as many as documents has ({len(documents)})")
    return TextPairs(queries, documents)


def _texts(tensors: Tensors, name: str, rules: ClientRules) -> tuple[str, ...]:
    elements = tensors[name].reshape(-1)
    if not elements.size:
        raise invalid(name, "0 elements", "at least 1 element")
    rules.check(name, elements.size, "SCORE_MAX_DOCUMENTS", "elements")
    return tuple(decode(f"{name}[{index}]", element) for index, element in enumerate(elements))
