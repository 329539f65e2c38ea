"""Routes of the OpenAI API that have a label of their own in the metrics.

They are those of the backend's contract; a test compares the two lists. Which routes are served, the models say.
"""

from __future__ import annotations

import re

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
# For load balancers and Prometheus, which have no key.
OPEN_PATHS = frozenset({"/health", "/live", "/metrics", "/ready"})
READY_PREFIX = "/ready/"
_READY_PATH = "/ready/{model}"
_MODELS_PREFIX = "/v1/models/"
_MODEL_PATH = "/v1/models/{model}"
# Their bodies are forms (multipart/form-data) with a file.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
RESPONSES_PATH = "/v1/responses"
RESPONSE_PATH = "/v1/responses/{id}"
_RESPONSE = re.compile(r"/v1/responses/([A-Za-z0-9_.~-]{1,256})(/cancel)?")


def route_of(path: str) -> str | None:
    """The route in OPENAI_PATHS that ``path`` is; None for others."""
    if found := _RESPONSE.fullmatch(path):
        return f"{RESPONSE_PATH}{found[2] or ''}"
    return path if path in OPENAI_PATHS and "{" not in path else None


def needs_capacity(method: str, path: str) -> bool:
    """Whether a model that is full refuses the request: what only looks something up, or ends work, it does not."""
    found = _RESPONSE.fullmatch(path.partition("?")[0])
    return method != "GET" and not (found and found[2])


def label_of(path: str) -> str | None:
    """What ``path`` is in the metrics: as :func:`route_of`, and the frontend's own routes; None for others."""
    if path in OPEN_PATHS:
        return path
    if path.startswith(READY_PREFIX):
        return _READY_PATH
    return _MODEL_PATH if path.startswith(_MODELS_PREFIX) else route_of(path)


def response_of(path: str) -> str | None:
    """The id of the stored response that ``path`` names; None for other routes."""
    found = _RESPONSE.fullmatch(path)
    return found[1] if found else None
