"""The one table of every input, output, request parameter and config parameter.

Auto-completion of config.pbtxt, parsing and validation of requests, validation of the model's configuration, and
docs/reference.md are all derived from the rows below. ``official`` marks what the official vLLM backend has under
the same name and with the same meaning.
"""

from __future__ import annotations

import json
from pathlib import Path

from vllm_custom.contract.fields import VLLM_FIELDS
from vllm_custom.contract.hosts import HostPattern, parse_network
from vllm_custom.contract.limits import REQUEST_LIMITS, TRUST_PARAMETERS
from vllm_custom.contract.specs import (
    ConfigParameterSpec,
    FieldSpec,
    RequestParameterSpec,
    TensorSpec,
    Trust,
)

__all__ = [
    "CONFIG_PARAMETERS",
    "INPUTS",
    "OUTPUTS",
    "PYTHON_BACKEND_PARAMETERS",
    "REQUEST_PARAMETERS",
    "VLLM_FIELDS",
    "ConfigParameterSpec",
    "FieldSpec",
    "RequestParameterSpec",
    "TensorSpec",
    "Trust",
]


def _folder(text: str) -> str:
    path = Path(text)
    if text and not (path.is_absolute() and path.is_dir() and path.resolve() != Path("/")):
        raise ValueError(text)
    return text


def _json_object(text: str) -> dict[str, object]:
    value = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _route(text: str) -> str:
    if not text.startswith("/") or not text.isascii():
        raise ValueError(text)
    return text


INPUTS: tuple[TensorSpec, ...] = (
    TensorSpec(
        "text_input",
        "TYPE_STRING",
        (1,),
        "The prompt. With media and no media placeholder in it, it becomes a user turn of the model's chat template, "
        "the media before the text. With placeholders it is used as it is, and their number must match the media.",
        official=True,
    ),
    TensorSpec(
        "messages",
        "TYPE_STRING",
        (1,),
        "A JSON list of chat messages in OpenAI's form (parts: text, image_url, video_url, audio_url, input_audio). "
        "Exactly one of text_input, messages, documents (with queries), embedding_request and openai_request is given.",
    ),
    TensorSpec(
        "image",
        "TYPE_STRING",
        (-1,),
        "Images, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or the "
        "encoded file's raw bytes (JPEG, PNG, WebP, GIF, BMP, TIFF).",
        official=True,
    ),
    TensorSpec(
        "video",
        "TYPE_STRING",
        (-1,),
        "Videos, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or the "
        "encoded file's raw bytes (MP4, WebM, GIF, animated WebP or PNG).",
    ),
    TensorSpec(
        "audio",
        "TYPE_STRING",
        (-1,),
        "Audio files, in order. Each element: an http(s) or file: URL that this model allows, a data: URI, base64, or "
        "the encoded file's raw bytes (WAV, FLAC, MP3, Ogg, or the audio track of MP4 or WebM). Channels are averaged, "
        "and the sampling rate is converted to the model's.",
    ),
    TensorSpec(
        "image_embeds",
        "TYPE_FP32",
        (-1, -1),
        "Instead of image: the output of the model's vision encoder, [rows, hidden size], one image after the other. "
        "May be declared TYPE_FP16. Requires enable_mm_embeds in model.json.",
    ),
    TensorSpec(
        "image_grid_thw",
        "TYPE_INT64",
        (-1, 3),
        "With image_embeds, for models that arrange images in a grid (Qwen-VL and others): patches of each image in "
        "time, height and width. For other models all rows belong to one image.",
    ),
    TensorSpec(
        "stream",
        "TYPE_BOOL",
        (1,),
        "True: one response for each piece of text. Requires the decoupled transaction policy.",
        official=True,
    ),
    TensorSpec(
        "sampling_parameters",
        "TYPE_STRING",
        (1,),
        "Request parameters as one JSON object; wins over the request's own parameters.",
        official=True,
    ),
    TensorSpec(
        "exclude_input_in_output",
        "TYPE_BOOL",
        (1,),
        "Whether the prompt is left out of text_output. Default for a raw prompt: false if not streamed, as the "
        "official backend; true if streamed (false is then refused). Default for a templated prompt: true.",
        official=True,
    ),
    TensorSpec("return_finish_reason", "TYPE_BOOL", (1,), "Ask for the output finish_reason.", official=True),
    TensorSpec("return_cumulative_logprob", "TYPE_BOOL", (1,), "Ask for cumulative_logprob.", official=True),
    TensorSpec("return_logprobs", "TYPE_BOOL", (1,), "Ask for the output logprobs.", official=True),
    TensorSpec("return_num_input_tokens", "TYPE_BOOL", (1,), "Ask for num_input_tokens.", official=True),
    TensorSpec("return_num_output_tokens", "TYPE_BOOL", (1,), "Ask for num_output_tokens.", official=True),
    TensorSpec(
        "queries",
        "TYPE_STRING",
        (-1,),
        "For a model that scores pairs of texts, instead of text_input: one query for all documents, or one for each.",
    ),
    TensorSpec(
        "documents",
        "TYPE_STRING",
        (-1,),
        "The texts that queries are paired with, at most SCORE_MAX_DOCUMENTS; the output scores has one number for "
        "each, in this order. Both inputs are named as in vLLM's score request, and documents as in its and Jina's "
        "rerank request.",
    ),
    TensorSpec(
        "embedding_request",
        "TYPE_STRING",
        (1,),
        "For a pooling model, as Triton's OpenAI frontend sends it: JSON with input (text or a list of token ids) and "
        "pooling_params (dimensions). Other inputs are then not read.",
        official=True,
    ),
    TensorSpec(
        "openai_request",
        "TYPE_STRING",
        (1,),
        'A call of vLLM\'s OpenAI API as JSON: `{"path": "/v1/chat/completions", "body": {...}}`, and where needed '
        "`method` (default: GET without a body, else POST) and `headers`. It cannot be combined with other "
        "inputs. See [OpenAI](openai.md).",
    ),
    TensorSpec("return_stop_reason", "TYPE_BOOL", (1,), "Ask for the output stop_reason."),
    TensorSpec("return_prompt_logprobs", "TYPE_BOOL", (1,), "Ask for the output prompt_logprobs."),
)

OUTPUTS: tuple[TensorSpec, ...] = (
    TensorSpec("text_output", "TYPE_STRING", (-1,), "The text, one element per generated sequence (n).", official=True),
    TensorSpec("finish_reason", "TYPE_STRING", (-1,), "stop, length, abort, or None while streaming.", official=True),
    TensorSpec(
        "cumulative_logprob",
        "TYPE_FP32",
        (-1,),
        "Log probability of each sequence so far, with or without logprobs; always a finite number.",
        official=True,
    ),
    TensorSpec(
        "logprobs",
        "TYPE_STRING",
        (-1,),
        "Per sequence, JSON: a list with one object per token of this response, token id to logprob, rank and "
        "decoded_token; null when logprobs was not asked for.",
        official=True,
    ),
    TensorSpec("num_input_tokens", "TYPE_UINT32", (1,), "Prompt tokens, media included.", official=True),
    TensorSpec(
        "num_output_tokens",
        "TYPE_UINT32",
        (-1,),
        "Tokens per sequence in this response (deltas add up).",
        official=True,
    ),
    TensorSpec(
        "stop_reason",
        "TYPE_STRING",
        (-1,),
        "Per sequence, the stop string or the id of the stop token that ended it; None where neither did.",
    ),
    TensorSpec(
        "prompt_logprobs",
        "TYPE_STRING",
        (1,),
        "JSON: a list with one object per prompt token (null for the first), as in logprobs; null when the parameter "
        "prompt_logprobs was not set, and in a stream after the response that held them.",
    ),
    TensorSpec(
        "embedding",
        "TYPE_FP32",
        (-1,),
        "The vector of a pooling model whose task is embed; for token_embed one row per token, [tokens, size].",
    ),
    TensorSpec(
        "scores",
        "TYPE_FP32",
        (-1,),
        "The output of a pooling model whose task is classify: one number per class; for token_classify one row "
        "per token, [tokens, classes]. For documents: one number for each of them, the score of its pair.",
    ),
    TensorSpec(
        "openai_response",
        "TYPE_STRING",
        (1,),
        "For openai_request: the next part of the response body. In a stream one or more whole server-sent events.",
    ),
    TensorSpec(
        "openai_status",
        "TYPE_INT32",
        (1,),
        "For openai_request: the HTTP status; in the first response only.",
    ),
    TensorSpec(
        "openai_headers",
        "TYPE_STRING",
        (1,),
        "For openai_request: the HTTP headers as a JSON object; in the first response only.",
    ),
)

_STRUCTURED = ("STRUCTURED_MAX_BYTES", "STRUCTURED_COMPILE_SECONDS")

REQUEST_PARAMETERS: tuple[RequestParameterSpec, ...] = (
    RequestParameterSpec(
        "lora_name", "string", "no adapter", "An adapter of multi_lora.json or LORA_DIR.", official=True
    ),
    RequestParameterSpec(
        "structured_outputs",
        "JSON object",
        "none",
        "vLLM's StructuredOutputsParams: exactly one of json, regex, choice, grammar, json_object, structural_tag.",
        official=True,
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "apply_chat_template",
        "bool",
        "true if media are sent without a placeholder, else false",
        "Whether text_input becomes a user turn of the chat template. messages are always templated.",
    ),
    RequestParameterSpec(
        "add_generation_prompt",
        "bool",
        "true, but false for a pooling model",
        "Passed to the chat template: begin the assistant's turn.",
    ),
    RequestParameterSpec(
        "continue_final_message",
        "bool",
        "false",
        "Passed to the chat template: leave the last message open, so that the model continues it.",
    ),
    RequestParameterSpec(
        "chat_template_kwargs",
        "JSON object",
        "{}",
        "Variables of the chat template with any name, such as enable_thinking, tools and documents. The key "
        "chat_template requires TRUST_REQUEST_CHAT_TEMPLATE; other arguments of the tokenizer are always refused.",
        trust=Trust.BOUNDED,
        by=("CHAT_TEMPLATE_KWARGS_MAX_BYTES", "TRUST_REQUEST_CHAT_TEMPLATE"),
    ),
    RequestParameterSpec(
        "mm_processor_kwargs",
        "JSON object",
        "{}",
        "Arguments of the model's media processor. Every client may lower max_pixels (the pixels that an image or "
        "frame is reduced to), from the model's smallest to its own max_pixels.",
        trust=Trust.OPERATOR,
        by=("TRUST_REQUEST_MM_KWARGS",),
    ),
    RequestParameterSpec(
        "num_frames",
        "int",
        "VIDEO_MAX_FRAMES, or num_frames of media_io_kwargs in model.json",
        "Frames taken from each video, spread evenly over it; at most VIDEO_MAX_FRAMES.",
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
    ),
    RequestParameterSpec(
        "fps",
        "float",
        "none, or fps of media_io_kwargs in model.json",
        "Frames taken per second of a video; with num_frames as well, whichever takes fewer.",
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
    ),
    RequestParameterSpec(
        "media_io_kwargs",
        "JSON object",
        "{}",
        'num_frames and fps as vLLM\'s server takes them: {"video": {"num_frames": 8, "fps": 2}}.',
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
    ),
    RequestParameterSpec(
        "priority",
        "int",
        "0",
        "vLLM's priority scheduling (scheduling_policy: priority in model.json): a lower number is served earlier. "
        "KServe's protocols keep this name for Triton's own queue: over gRPC and /infer it goes into "
        "sampling_parameters.",
    ),
    RequestParameterSpec(
        "guided_json",
        "JSON object",
        "none",
        "Alias of structured_outputs.json: the text is JSON that matches this JSON schema.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "guided_regex",
        "string",
        "none",
        "Alias of structured_outputs.regex: the whole text matches this regular expression.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "guided_choice",
        "JSON list of strings",
        "none",
        "Alias of structured_outputs.choice: the text is one of these.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "guided_grammar",
        "string",
        "none",
        "Alias of structured_outputs.grammar: the text follows this grammar, in the format that the configured backend "
        "reads (GBNF, Lark).",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "guided_json_object", "bool", "false", "Alias of structured_outputs.json_object: the text is a JSON object."
    ),
    RequestParameterSpec(
        "guided_structural_tag",
        "JSON object",
        "none",
        "Alias of structured_outputs.structural_tag: free text with parts between tags that follow schemas.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "response_format",
        "JSON object",
        "none",
        "Structured outputs in OpenAI's form: type is text, json_object, json_schema or structural_tag. A request may "
        "have one constraint, whichever of these parameters sets it.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
    ),
    RequestParameterSpec(
        "timeout",
        "int, microseconds",
        "0 (none)",
        "Time from the request's arrival after which it is aborted and answered UNAVAILABLE, at whatever stage it is. "
        "The timeout of a KServe request means the same; the shorter one applies.",
    ),
    RequestParameterSpec(
        "traceparent",
        "string",
        "none",
        "W3C Trace Context for vLLM's OpenTelemetry spans (otlp_traces_endpoint in model.json); never refused. Where "
        "tritonserver traces in its OpenTelemetry mode, vLLM's spans are children of Triton's without it.",
    ),
    RequestParameterSpec("tracestate", "string", "none", "Vendor part of the Trace Context, with traceparent."),
)

CONFIG_PARAMETERS: tuple[ConfigParameterSpec, ...] = (
    ConfigParameterSpec(
        "REPORT_CUSTOM_METRICS",
        bool,
        False,
        "Report vLLM's metrics on Triton's metrics endpoint, and our own: vllm_custom:requests_success_total, "
        "vllm_custom:requests_failed_total by Triton's error code, and those of media.",
        official=True,
    ),
    ConfigParameterSpec(
        "ENABLE_VLLM_HEALTH_CHECK",
        bool,
        False,
        "Check the engine's health before each batch of requests; unload the model when it has died.",
        official=True,
    ),
    ConfigParameterSpec(
        "VLLM_BACKEND_DIR",
        str,
        "",
        "Folder of the vLLM backend's model.py to build on; default: the environment variable of that name, else the "
        "folder vllm next to this backend's.",
    ),
    ConfigParameterSpec(
        "MEDIA_MAX_BYTES", int, 64 * 1024 * 1024, "Largest encoded image, video or audio.", minimum=1, unit="bytes"
    ),
    ConfigParameterSpec(
        "IMAGE_MAX_PIXELS",
        int,
        50_000_000,
        "Largest image or video frame, width times height, checked in the header before anything is decoded.",
        minimum=1,
        unit="pixels",
    ),
    ConfigParameterSpec(
        "VIDEO_MAX_FRAMES", int, 32, "Frames taken from a video, spread evenly over it.", minimum=1, unit="frames"
    ),
    ConfigParameterSpec(
        "VIDEO_MAX_PIXELS",
        int,
        10_000_000_000,
        "Longest video: width times height times number of frames, checked in the header before anything is decoded, "
        "since all frames up to the last one taken have to be decoded. The default is about 160 s of 1920 x 1080 at "
        "30 frames per second. Frames below 256 x 256 count as 256 x 256; animations (GIF, WebP, PNG) count ten times.",
        minimum=1,
        unit="pixels",
    ),
    ConfigParameterSpec(
        "AUDIO_MAX_SECONDS",
        int,
        600,
        "Longest audio, counted while it is decoded. At more than 96,000 samples per second in all channels together "
        "(48 kHz in stereo) the limit is proportionally shorter.",
        minimum=1,
        unit="seconds",
    ),
    ConfigParameterSpec(
        "MEDIA_CONCURRENCY",
        int,
        4,
        "Processes that decode media, one item at a time each; the model's own process never decodes. They are started "
        "when they are needed, and then kept.",
        minimum=1,
    ),
    ConfigParameterSpec(
        "MEDIA_DECODE_SECONDS",
        int,
        30,
        "Time to decode one item; after that its process is ended.",
        minimum=1,
        unit="seconds",
    ),
    ConfigParameterSpec(
        "MEDIA_WORKER_BYTES",
        int,
        4 * 1024**3,
        "Memory that a process may take to decode one item.",
        minimum=64 * 1024**2,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "MEDIA_REQUEST_BYTES",
        int,
        1024**3,
        "Decoded size of all media of one request together (images: width times height times 4; frames: times 3; "
        "audio: samples times 4), checked in the headers before anything is decoded. Cached media do "
        "not count. Its files, counted as they arrive, have the same limit.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "MEDIA_INFLIGHT_BYTES",
        int,
        4 * 1024**3,
        "The same for all requests of the model until their prompts are rendered, and as much again for what their "
        "files may have until they are decoded; further requests wait in order. At least MEDIA_REQUEST_BYTES.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "MEDIA_MAX_ITEMS",
        int,
        128,
        "Images, videos and audio of one prompt together; limit_mm_per_prompt in model.json limits each kind.",
        minimum=1,
    ),
    ConfigParameterSpec(
        "MEDIA_CACHE_BYTES",
        int,
        256 * 1024 * 1024,
        "Cache of decoded media by a hash of their content, so that repeated media are decoded once; the least "
        "recently used are evicted first. 0: no cache.",
        unit="bytes",
    ),
    ConfigParameterSpec(
        "ALLOWED_MEDIA_DOMAINS",
        tuple,
        (),
        "Hosts that media may be fetched from, separated by commas: `host`, `*.suffix`, either with `:port` (else the "
        "scheme's default port only). Empty: no URL is fetched. See [security](security.md).",
        parse=HostPattern.parse,
        allowed="a list of host, *.suffix, host:port or *.suffix:port",
    ),
    ConfigParameterSpec(
        "ALLOWED_MEDIA_NETWORKS",
        tuple,
        (),
        "Networks that may be connected to although their addresses are not public, in CIDR notation, separated by "
        "commas, such as `10.0.0.0/8`.",
        parse=parse_network,
        allowed="a list of networks in CIDR notation without host bits, such as 10.0.0.0/8",
    ),
    ConfigParameterSpec(
        "ALLOWED_LOCAL_MEDIA_PATH",
        str,
        "",
        "Folder that file: URLs may read from, including everything below it. Not set: no file: URL is read.",
        parse=_folder,
        allowed="the absolute path of a folder, other than /",
    ),
    ConfigParameterSpec(
        "MEDIA_FETCH_TIMEOUT_SECONDS",
        int,
        30,
        "Time for one URL, from the look-up of its host to the last byte, including redirects.",
        minimum=1,
        unit="seconds",
    ),
    ConfigParameterSpec(
        "MEDIA_FETCH_CONCURRENCY", int, 32, "URLs that are fetched at the same time; the others wait.", minimum=1
    ),
    ConfigParameterSpec(
        "MEDIA_URL_CACHE_BYTES",
        int,
        0,
        "Cache of files fetched by URL, as far as their servers allow it (Cache-Control, ETag). 0: no cache, each URL "
        "is fetched each time.",
        unit="bytes",
    ),
    ConfigParameterSpec(
        "CHAT_TEMPLATE",
        str,
        "",
        "A Jinja file (relative paths: from the version folder) that replaces the model's own chat template.",
    ),
    ConfigParameterSpec(
        "MAX_INFLIGHT_REQUESTS",
        int,
        0,
        "Sequences in flight at once (n, rows and prompts of all requests); further requests are answered UNAVAILABLE "
        "immediately. 0: no limit.",
    ),
    ConfigParameterSpec(
        "LORA_DIR",
        str,
        "",
        "A folder (relative paths: from the version folder) whose subfolders with an adapter_config.json are LoRA "
        "adapters by the subfolder's name. They may be added, replaced and removed while the model serves. Requires "
        "enable_lora in model.json.",
    ),
    ConfigParameterSpec(
        "TOOL_CALL_PARSER",
        str,
        "",
        "For openai_request: vLLM's parser that extracts tool calls from the model's text, as `--tool-call-parser` of "
        "`vllm serve`.",
    ),
    ConfigParameterSpec(
        "ENABLE_AUTO_TOOL_CHOICE",
        bool,
        False,
        'For openai_request: let the model decide whether to call a tool (tool_choice "auto"). Requires '
        "TOOL_CALL_PARSER.",
    ),
    ConfigParameterSpec(
        "REASONING_PARSER",
        str,
        "",
        "For openai_request: vLLM's parser that separates the model's reasoning from its answer, as "
        "`--reasoning-parser`; the engine argument reasoning_parser in model.json means the same.",
    ),
    ConfigParameterSpec(
        "OPENAI_ARGS",
        str,
        "",
        "For openai_request: further arguments of vLLM's OpenAI server as a JSON object, such as "
        '`{"enable_force_include_usage": true}`; only those that affect its responses.',
        parse=_json_object,
        allowed="a JSON object",
    ),
    ConfigParameterSpec(
        "OPENAI_PATHS",
        tuple,
        (),
        "For openai_request: routes of vLLM's application that may be called in addition to those of the OpenAI API, "
        "separated by commas, such as `/v1/messages`. Some change the engine for all clients; see [OpenAI](openai.md).",
        parse=_route,
        allowed="a list of paths such as /v1/messages",
    ),
    ConfigParameterSpec(
        "SCORE_MAX_DOCUMENTS",
        int,
        1000,
        "Elements that the input documents may have; each is a separate prompt for the engine.",
        minimum=1,
    ),
    *TRUST_PARAMETERS,
    *REQUEST_LIMITS,
)

# Keys that Triton's python backend itself reads from `parameters`.
PYTHON_BACKEND_PARAMETERS = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})
