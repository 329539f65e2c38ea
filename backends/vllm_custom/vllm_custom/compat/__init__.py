"""The only package that knows vLLM versions: what moved, and how this backend asks for it.

Written for vLLM 0.20 and later; run with 0.32.
"""

from vllm_custom.compat.engine import (
    engine_argument_names,
    engine_error,
    has_failed,
    on_one_host,
    random_request_id,
    run,
    supported_tasks,
    traces,
)
from vllm_custom.compat.media import as_tensor, audio_rate, embeds_layout, frame_sampling, join_embeds, media_limits
from vllm_custom.compat.openai import OPENAI_ARGUMENTS, build_openai_application, check_parsers, prepare_reasoning
from vllm_custom.compat.pooling import (
    POOLING_TASKS,
    pair_processor,
    pair_scores,
    pairs_are_templated,
    parts_of_pairs,
    pooling_fields,
    pooling_task,
    render_part,
    scoring_context,
    scoring_fields,
)
from vllm_custom.compat.prompts import chat_template_of, placeholder, render_chat, render_text
from vllm_custom.compat.sampling import (
    default_sampling,
    max_tokens_limit,
    prefers_xgrammar,
    sampling_fields,
)

__all__ = [
    "OPENAI_ARGUMENTS",
    "POOLING_TASKS",
    "as_tensor",
    "audio_rate",
    "build_openai_application",
    "chat_template_of",
    "check_parsers",
    "default_sampling",
    "embeds_layout",
    "engine_argument_names",
    "engine_error",
    "frame_sampling",
    "has_failed",
    "join_embeds",
    "max_tokens_limit",
    "media_limits",
    "on_one_host",
    "pair_processor",
    "pair_scores",
    "pairs_are_templated",
    "parts_of_pairs",
    "placeholder",
    "pooling_fields",
    "pooling_task",
    "prefers_xgrammar",
    "prepare_reasoning",
    "random_request_id",
    "render_chat",
    "render_part",
    "render_text",
    "run",
    "sampling_fields",
    "scoring_context",
    "scoring_fields",
    "supported_tasks",
    "traces",
]
