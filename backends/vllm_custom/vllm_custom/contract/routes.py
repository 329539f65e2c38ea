"""Routes of vLLM's OpenAI application that openai_request serves. The frontend has the same list for its metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# They answer from the model. The application has others, which load adapters, profile or reset the engine.
OPENAI_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/{id}",
        "/v1/responses/{id}/cancel",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/models",
        "/v1/score",
        "/v1/rerank",
        "/score",
        "/rerank",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
        "/version",
    }
)
# Their bodies are forms (multipart/form-data) with a file. Here they are JSON: the fields, and the file as base64.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
RESPONSES_PATH = "/v1/responses"
RESPONSE_PATH = "/v1/responses/{id}"
# It ends work, and is no work itself.
CANCEL_PATH = "/v1/responses/{id}/cancel"

# What stands for {id}: no slash, and nothing that a path may mean otherwise.
_PARAMETER = re.compile(r"\\\{[A-Za-z_]+\\\}")
_VALUE = "[A-Za-z0-9_.~-]{1,256}"


def is_path(path: str, of: str) -> bool:
    """Whether ``path`` is the route ``of``, whose parameters are in braces."""
    return path == of if "{" not in of else _pattern(of).fullmatch(path) is not None


def is_one_of(path: str, routes: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``routes``."""
    return "{" not in path and (path in routes or any(is_path(path, route) for route in routes if "{" in route))


@lru_cache(maxsize=256)
def _pattern(route: str) -> re.Pattern[str]:
    return re.compile(_PARAMETER.sub(_VALUE, re.escape(route)))
