"""Every input and output tensor. Auto-completion of config.pbtxt and docs/reference.md come from these rows.

``official`` marks what the official vLLM backend has under the same name and with the same meaning.
"""

from __future__ import annotations

from vllm_custom.contract.names import (
    AUDIO,
    BAD_WORDS,
    CUMULATIVE_LOGPROB,
    DOCUMENTS,
    EMBEDDING,
    EMBEDDING_REQUEST,
    EXCLUDE_INPUT_IN_OUTPUT,
    FINISH_REASON,
    IMAGE,
    IMAGE_EMBEDS,
    IMAGE_GRID_THW,
    INPUT_IDS,
    LOGPROBS,
    MEDIA_INPUTS,
    MESSAGES,
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    OPENAI_HEADERS,
    OPENAI_REQUEST,
    OPENAI_RESPONSE,
    OPENAI_STATUS,
    OUTPUT_IDS,
    PROMPT_EMBEDS,
    PROMPT_LOGPROBS,
    QUERIES,
    REASONING,
    REQUEST_METRICS,
    RETURN_PREFIX,
    SAMPLING_PARAMETERS,
    SCORES,
    STOP_REASON,
    STOP_WORDS,
    STREAM,
    TEXT_INPUT,
    TEXT_OUTPUT,
    TOOL_CALLS,
    VIDEO,
)
from vllm_custom.contract.specs import Exclusion, TensorSpec
from vllm_custom.kernel.official_tensors import OFFICIAL_INPUTS, OFFICIAL_OUTPUTS

NO_TOKEN = -1  # in output_ids, where a sequence is shorter than another


def _official_input(name: str, meaning: str) -> TensorSpec:
    return TensorSpec(name, *OFFICIAL_INPUTS[name], meaning, official=True)


def _official_output(name: str, meaning: str) -> TensorSpec:
    return TensorSpec(name, *OFFICIAL_OUTPUTS[name], meaning, official=True)


INPUTS: tuple[TensorSpec, ...] = (
    _official_input(
        TEXT_INPUT,
        "The prompt. With media and no media placeholder in it, it becomes a user turn of the model's chat template, "
        "the media before the text. With placeholders it is used as it is, and their number must match the media.",
    ),
    TensorSpec(
        MESSAGES,
        "TYPE_STRING",
        (1,),
        "A JSON list of chat messages in OpenAI's form (parts: text, image_url, video_url, audio_url, input_audio) or "
        "in [Qwen's](guides/media.md) (parts: image, video). "
        "Exactly one of text_input, messages, input_ids, prompt_embeds, documents (with queries), embedding_request "
        "and openai_request is given.",
    ),
    TensorSpec(
        INPUT_IDS,
        "TYPE_INT32",
        (-1,),
        "The prompt as token ids, as it is: no template, no media. May be declared TYPE_INT64.",
    ),
    TensorSpec(
        PROMPT_EMBEDS,
        "TYPE_FP32",
        (-1, -1),
        "The prompt as embeddings of its tokens, [tokens, hidden size]. May be declared TYPE_FP16. Requires "
        "enable_prompt_embeds in model.json.",
    ),
    _official_input(
        IMAGE,
        "Images, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or the "
        "encoded file's raw bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, and what IMAGE_FORMATS adds).",
    ),
    TensorSpec(
        VIDEO,
        "TYPE_STRING",
        (-1,),
        "Videos, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or the "
        "encoded file's raw bytes (MP4, WebM, GIF, animated WebP or PNG). Frames in hand: "
        "`data:video/jpeg;base64,FRAME,FRAME,...`.",
    ),
    TensorSpec(
        AUDIO,
        "TYPE_STRING",
        (-1,),
        "Audio files, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or "
        "the encoded file's raw bytes (WAV, FLAC, MP3, AAC, Ogg, or the audio track of MP4 or WebM). Channels are "
        "averaged, and the sampling rate is converted to the model's.",
    ),
    TensorSpec(
        IMAGE_EMBEDS,
        "TYPE_FP32",
        (-1, -1),
        "Instead of image: the output of the model's vision encoder, [rows, hidden size], one image after the other. "
        "May be declared TYPE_FP16. Requires enable_mm_embeds in model.json.",
    ),
    TensorSpec(
        IMAGE_GRID_THW,
        "TYPE_INT64",
        (-1, 3),
        "With image_embeds, for models that arrange images in a grid (Qwen-VL and others): patches of each image in "
        "time, height and width. For other models all rows belong to one image.",
    ),
    _official_input(
        STREAM,
        "True: one response for each piece of text. Requires the decoupled transaction policy.",
    ),
    _official_input(
        SAMPLING_PARAMETERS,
        "Request parameters as one JSON object; wins over the request's own parameters.",
    ),
    _official_input(
        EXCLUDE_INPUT_IN_OUTPUT,
        "Whether the prompt is left out of text_output. Default for a raw prompt: false if not streamed, as the "
        "official backend; true if streamed (false is then refused). Default for a templated prompt: true.",
    ),
    _official_input("return_finish_reason", "Ask for the output finish_reason."),
    _official_input("return_cumulative_logprob", "Ask for cumulative_logprob."),
    _official_input("return_logprobs", "Ask for the output logprobs."),
    _official_input("return_num_input_tokens", "Ask for num_input_tokens."),
    _official_input("return_num_output_tokens", "Ask for num_output_tokens."),
    TensorSpec(
        STOP_WORDS,
        "TYPE_STRING",
        (-1,),
        "The parameter stop as a list, which Triton's generate takes as an input only, so that clients of TensorRT-LLM "
        "(LiteLLM's `triton/` among them) work unchanged; empty elements are ignored.",
    ),
    TensorSpec(BAD_WORDS, "TYPE_STRING", (-1,), "The parameter bad_words in the same way."),
    TensorSpec(
        QUERIES,
        "TYPE_STRING",
        (-1,),
        "For a model that scores pairs of texts, instead of text_input: one query for all documents, or one for each.",
    ),
    TensorSpec(
        DOCUMENTS,
        "TYPE_STRING",
        (-1,),
        "The texts that queries are paired with, at most SCORE_MAX_DOCUMENTS; the output scores has one number for "
        "each, in this order. Both inputs are named as in vLLM's score request, and documents as in its and Jina's "
        "rerank request.",
    ),
    _official_input(
        EMBEDDING_REQUEST,
        "For a pooling model, as Triton's OpenAI frontend sends it: JSON with input (text or a list of token ids) and "
        "pooling_params (dimensions). Other inputs are then not read.",
    ),
    TensorSpec(
        OPENAI_REQUEST,
        "TYPE_STRING",
        (1,),
        'A call of vLLM\'s OpenAI API as JSON: `{"path": "/v1/chat/completions", "body": {...}}`, and where needed '
        "`method` (default: GET without a body, else POST) and `headers`. It cannot be combined with other "
        "inputs. See [OpenAI](openai.md).",
    ),
    TensorSpec("return_stop_reason", "TYPE_BOOL", (1,), "Ask for the output stop_reason."),
    TensorSpec(
        "return_reasoning",
        "TYPE_BOOL",
        (1,),
        "Ask for the output reasoning; text_output is then the answer without it. Requires REASONING_PARSER.",
    ),
    TensorSpec("return_output_ids", "TYPE_BOOL", (1,), "Ask for the output output_ids."),
    TensorSpec("return_prompt_logprobs", "TYPE_BOOL", (1,), "Ask for the output prompt_logprobs."),
    TensorSpec("return_request_metrics", "TYPE_BOOL", (1,), "Ask for the output request_metrics."),
)

OUTPUTS: tuple[TensorSpec, ...] = (
    _official_output(TEXT_OUTPUT, "The text, one element per generated sequence (n)."),
    _official_output(FINISH_REASON, "stop, length, abort, tool_calls, or None while streaming."),
    _official_output(
        CUMULATIVE_LOGPROB,
        "Log probability of each sequence so far, with or without logprobs; always a finite number.",
    ),
    _official_output(
        LOGPROBS,
        "Per sequence, JSON: a list with one object per token of this response, token id to logprob, rank and "
        "decoded_token; null when logprobs was not asked for.",
    ),
    _official_output(NUM_INPUT_TOKENS, "Prompt tokens, media included."),
    _official_output(
        NUM_OUTPUT_TOKENS,
        "Tokens per sequence in this response (deltas add up).",
    ),
    TensorSpec(
        STOP_REASON,
        "TYPE_STRING",
        (-1,),
        "Per sequence, the stop string or the id of the stop token that ended it; None where neither did.",
    ),
    TensorSpec(
        REASONING,
        "TYPE_STRING",
        (-1,),
        "Per sequence, what the model thought before its answer, by vLLM's parser (REASONING_PARSER).",
    ),
    TensorSpec(
        TOOL_CALLS,
        "TYPE_STRING",
        (-1,),
        "With the parameter tools, per sequence, JSON: a list of tool calls in OpenAI's form, by vLLM's parser "
        "(TOOL_CALL_PARSER). In a stream what is new of them, as OpenAI's deltas with index.",
    ),
    TensorSpec(
        OUTPUT_IDS,
        "TYPE_INT32",
        (-1, -1),
        "Token ids of each sequence in this response, [n, tokens]; shorter ones are filled up with -1.",
    ),
    TensorSpec(
        PROMPT_LOGPROBS,
        "TYPE_STRING",
        (1,),
        "JSON: a list with one object per prompt token (null for the first), as in logprobs; null when the parameter "
        "prompt_logprobs was not set, and in a stream after the response that held them.",
    ),
    TensorSpec(
        REQUEST_METRICS,
        "TYPE_STRING",
        (1,),
        "JSON: what the request took in the engine: queue_seconds, prefill_seconds, first_token_seconds and "
        "last_token_seconds (both since its arrival at the engine), cached_tokens of the prompt, and with speculative "
        "decoding and vLLM's per_request_spec_decode_metrics mean_acceptance_length and draft_acceptance_rate. With n "
        "above 1 only cached_tokens; null in a stream before its last response.",
    ),
    TensorSpec(
        EMBEDDING,
        "TYPE_FP32",
        (-1,),
        "The vector of a pooling model whose task is embed; for token_embed one row per token, [tokens, size].",
    ),
    TensorSpec(
        SCORES,
        "TYPE_FP32",
        (-1,),
        "The output of a pooling model whose task is classify: one number per class; for token_classify one row "
        "per token, [tokens, classes]. For documents: one number for each of them, the score of its pair.",
    ),
    TensorSpec(
        OPENAI_RESPONSE,
        "TYPE_STRING",
        (1,),
        "For openai_request: the next part of the response body. In a stream one or more whole server-sent events.",
    ),
    TensorSpec(
        OPENAI_STATUS,
        "TYPE_INT32",
        (1,),
        "For openai_request: the HTTP status; in the first response only.",
    ),
    TensorSpec(
        OPENAI_HEADERS,
        "TYPE_STRING",
        (1,),
        "For openai_request: the HTTP headers as a JSON object; in the first response only.",
    ),
)

# Outputs that a response has only where the request asks for them.
ADDITIONAL_OUTPUTS = tuple(
    spec.name
    for spec in OUTPUTS
    if spec.name == TOOL_CALLS or RETURN_PREFIX + spec.name in {spec.name for spec in INPUTS}
)

# What the rows above do not say of combinations. openai_request and embedding_request are read by themselves.
EXCLUSIONS = (
    Exclusion(MEDIA_INPUTS, (MESSAGES,), "use their parts (image_url, video_url, input_audio)"),
    Exclusion((*MEDIA_INPUTS, IMAGE_EMBEDS), (QUERIES, DOCUMENTS), "they are text"),
    Exclusion((*MEDIA_INPUTS, IMAGE_EMBEDS), (INPUT_IDS, PROMPT_EMBEDS), "send them with text_input or messages"),
    Exclusion((IMAGE_EMBEDS,), (MESSAGES,), "requires text_input"),
    Exclusion((IMAGE_EMBEDS,), (IMAGE,)),
)
