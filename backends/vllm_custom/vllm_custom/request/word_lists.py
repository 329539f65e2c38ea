"""Lists of words that are inputs: Triton's generate takes no list in any other place."""

from __future__ import annotations

from vllm_custom.contract.names import BAD_WORDS, STOP_WORDS
from vllm_custom.kernel.tensors import decode
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors

# Input, the parameter that it is, and the limit of its elements.
_LISTS = ((STOP_WORDS, "stop", "MAX_STOP_STRINGS"), (BAD_WORDS, "bad_words", "MAX_BAD_WORDS"))


def read_word_lists(tensors: Tensors, rules: ClientRules) -> dict[str, list[str]]:
    """Parameters by name. Clients that have no such words send an empty one.

    Raises:
        InvalidRequestError: too many elements, or one that is not UTF-8.
    """
    found = {}
    for name, parameter, limit in _LISTS:
        if name in tensors:
            rules.check(name, tensors[name].size, limit, "strings")
            words = [decode(name, element) for element in tensors[name].reshape(-1)]
            found[parameter] = [word for word in words if word]
    return {parameter: words for parameter, words in found.items() if words}
