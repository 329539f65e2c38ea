"""Routes of vLLM's OpenAI application that openai_request serves. The frontend has the same list for its metrics."""

from __future__ import annotations

# They answer from the model. The application has others, which load adapters, profile or reset the engine.
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
# Their bodies are forms (multipart/form-data) with a file. Here they are JSON: the fields, and the file as base64.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
