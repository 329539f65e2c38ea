"""Config parameters that say what a client may set, and how much of it; the defaults are beyond ordinary use."""

from __future__ import annotations

from vllm_custom.contract.specs import ConfigParameterSpec


def _name(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(text)
    return text


TRUST_PARAMETERS: tuple[ConfigParameterSpec, ...] = (
    ConfigParameterSpec(
        "TRUST_REQUEST_CHAT_TEMPLATE",
        bool,
        False,
        "Let clients send a chat template (chat_template in chat_template_kwargs, or in the body of openai_request). "
        "It is a program that runs in the server: for trusted clients only.",
    ),
    ConfigParameterSpec(
        "TRUST_REQUEST_MM_KWARGS",
        bool,
        False,
        "Let clients set every argument of the model's media processor (mm_processor_kwargs). Some of them crash "
        "the engine or exhaust the memory: for trusted clients only.",
    ),
    ConfigParameterSpec(
        "TRUSTED_PARAMETERS",
        tuple,
        (),
        "The operator's fields of vLLM's SamplingParams that clients may set nevertheless, separated by commas, such "
        "as `extra_args`, which also allows vllm_xargs, kv_transfer_params and ec_transfer_params of openai_request.",
        parse=_name,
        allowed="a list of names of fields such as extra_args",
    ),
)

REQUEST_LIMITS: tuple[ConfigParameterSpec, ...] = (
    ConfigParameterSpec(
        "REQUEST_MAX_JSON_BYTES",
        int,
        128 * 1024 * 1024,
        "Longest JSON text in a request: messages, sampling_parameters, embedding_request, openai_request and the "
        "request's own parameters, each. Base64 of media counts, so it has to fit MEDIA_MAX_BYTES times 4/3.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "REQUEST_MAX_JSON_VALUES",
        int,
        500_000,
        "Values in a JSON text, counted before it is parsed: its commas, colons and opening brackets, including those "
        "inside strings.",
        minimum=1,
    ),
    ConfigParameterSpec(
        "REQUEST_MAX_JSON_DEPTH",
        int,
        100,
        "Nesting depth of objects and lists in a JSON text.",
        minimum=1,
        unit="levels",
    ),
    ConfigParameterSpec(
        "MAX_MESSAGE_PARTS", int, 4000, "Messages, their parts and their tool calls together.", minimum=1
    ),
    ConfigParameterSpec("MAX_TOOLS", int, 1024, "Tools of one request (tools).", minimum=1),
    ConfigParameterSpec(
        "OPENAI_MAX_BODY_BYTES",
        int,
        16 * 1024 * 1024,
        "Body of openai_request as JSON, without its media: vLLM's application parses it in one step.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "TOKENIZE_MAX_CHARACTERS",
        int,
        500_000,
        "For openai_request: characters that /tokenize takes, and token ids that /detokenize takes; the context of the "
        "model does not bound these two.",
        minimum=1,
        unit="characters",
    ),
    ConfigParameterSpec(
        "CHAT_TEMPLATE_KWARGS_MAX_BYTES",
        int,
        1024 * 1024,
        "chat_template_kwargs as JSON; the template may iterate over them many times.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "RENDER_TIMEOUT_SECONDS",
        int,
        30,
        "Time to apply the chat template to messages and to tokenise them.",
        minimum=1,
        unit="seconds",
    ),
    ConfigParameterSpec(
        "MAX_N", int, 128, "Sequences of one prompt (n); each of them counts for MAX_INFLIGHT_REQUESTS.", minimum=1
    ),
    ConfigParameterSpec(
        "MAX_PROMPTS",
        int,
        2048,
        "For openai_request: prompts of one call (prompt of completions, input of embeddings, classify and pooling), "
        "and sequences of all its prompts together (n).",
        minimum=1,
    ),
    ConfigParameterSpec("MAX_STOP_STRINGS", int, 64, "Stop strings (stop).", minimum=1),
    ConfigParameterSpec("MAX_STOP_CHARACTERS", int, 1024, "Longest stop string.", minimum=1, unit="characters"),
    ConfigParameterSpec("MAX_BAD_WORDS", int, 128, "Entries of bad_words.", minimum=1),
    ConfigParameterSpec(
        "MAX_BAD_WORD_CHARACTERS", int, 256, "Longest entry of bad_words.", minimum=1, unit="characters"
    ),
    ConfigParameterSpec("MAX_LOGIT_BIAS", int, 1024, "Entries of logit_bias.", minimum=1),
    ConfigParameterSpec(
        "MAX_TOKEN_IDS",
        int,
        16_384,
        "Ids in stop_token_ids, allowed_token_ids and other lists of token ids, and elements of a typed tensor.",
        minimum=1,
    ),
    ConfigParameterSpec(
        "MAX_PROMPT_LOGPROBS",
        int,
        200_000,
        "Tokens of the prompt times (prompt_logprobs + 1); for openai_request also what echo with logprobs asks for.",
        minimum=1,
    ),
    ConfigParameterSpec(
        "MAX_REPETITION_PATTERN", int, 256, "max_pattern_size and min_count of repetition_detection.", minimum=1
    ),
    ConfigParameterSpec(
        "STRUCTURED_MAX_BYTES",
        int,
        256 * 1024,
        "JSON schema, regular expression, grammar, structural tag or list of choices of one request.",
        minimum=1,
        unit="bytes",
    ),
    ConfigParameterSpec(
        "STRUCTURED_COMPILE_SECONDS",
        int,
        10,
        "Time that a constraint may take to compile with this model's tokenizer. A separate process with at most 1 GiB "
        "of memory compiles it before it reaches the engine.",
        minimum=1,
        unit="seconds",
    ),
)
