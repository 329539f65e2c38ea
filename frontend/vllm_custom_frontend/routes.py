"""Routes of the OpenAI API that have a label of their own in the metrics.

They are those of the backend's contract; a test compares the two lists. Which routes are served, the models say.
"""

from __future__ import annotations

OPENAI_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
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
# Their bodies are forms (multipart/form-data) with a file.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
