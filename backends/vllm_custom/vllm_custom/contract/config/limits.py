"""What a client may set, and how much of it; the defaults are beyond ordinary use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from vllm_custom.contract.declare import config_parameter


def _name(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(text)
    return text


class LimitParameters(BaseModel):
    """Trust in clients, and limits of what they ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trust_request_chat_template: bool = config_parameter(
        False,
        "Let clients send a chat template (chat_template in chat_template_kwargs, or in the body of openai_request). "
        "It is a program that runs in the server: for trusted clients only.",
    )
    trust_request_mm_kwargs: bool = config_parameter(
        False,
        "Let clients set every argument of the model's media processor (mm_processor_kwargs). Some of them crash "
        "the engine or exhaust the memory: for trusted clients only.",
    )
    trusted_parameters: tuple[str, ...] = config_parameter(
        (),
        "The operator's fields of vLLM's SamplingParams that clients may set nevertheless, separated by commas, such "
        "as `extra_args`, which also allows vllm_xargs, kv_transfer_params and ec_transfer_params of openai_request.",
        parse=_name,
        allowed="a list of names of fields such as extra_args",
    )
    request_max_json_bytes: int = config_parameter(
        128 * 1024 * 1024,
        "Longest JSON text in a request: messages, sampling_parameters, embedding_request, openai_request and the "
        "request's own parameters, each. Base64 of media counts, so it has to fit MEDIA_MAX_BYTES times 4/3.",
        minimum=1,
        unit="bytes",
    )
    request_max_json_values: int = config_parameter(
        500_000,
        "Values in a JSON text, counted before it is parsed: its commas, colons and opening brackets, including those "
        "inside strings.",
        minimum=1,
    )
    request_max_json_escapes: int = config_parameter(
        8_000_000,
        "Backslashes in a JSON text, counted before it is parsed: an escaped character takes ten times as long to read "
        "as another.",
        minimum=1,
    )
    request_max_json_depth: int = config_parameter(
        100, "Nesting depth of objects and lists in a JSON text.", minimum=1, unit="levels"
    )
    max_message_parts: int = config_parameter(4000, "Messages, their parts and their tool calls together.", minimum=1)
    max_tools: int = config_parameter(1024, "Tools of one request (tools).", minimum=1)
    openai_max_body_bytes: int = config_parameter(
        16 * 1024 * 1024,
        "Body of openai_request as JSON, without its media: vLLM's application parses it in one step.",
        minimum=1,
        unit="bytes",
    )
    tokenize_max_characters: int = config_parameter(
        500_000,
        "For openai_request: characters that /tokenize takes, and token ids that /detokenize takes; the context of the "
        "model does not bound these two. With return_token_strs each counts four times. Also of a text that is cut to "
        "a number of tokens, where less would fit.",
        minimum=1,
        unit="characters",
    )
    chat_template_kwargs_max_bytes: int = config_parameter(
        1024 * 1024,
        "chat_template_kwargs as JSON; the template may iterate over them many times.",
        minimum=1,
        unit="bytes",
    )
    render_timeout_seconds: int = config_parameter(
        30, "Time to apply the chat template to messages and to tokenise them.", minimum=1, unit="seconds"
    )
    max_n: int = config_parameter(
        128, "Sequences of one prompt (n); each of them counts for MAX_INFLIGHT_REQUESTS.", minimum=1
    )
    max_prompts: int = config_parameter(
        2048,
        "For openai_request: prompts of one call (prompt of completions, input of embeddings, classify and pooling), "
        "and sequences of all its prompts together (n).",
        minimum=1,
    )
    max_stop_strings: int = config_parameter(64, "Stop strings (stop).", minimum=1)
    max_stop_characters: int = config_parameter(1024, "Longest stop string.", minimum=1, unit="characters")
    max_bad_words: int = config_parameter(128, "Entries of bad_words.", minimum=1)
    max_bad_word_characters: int = config_parameter(256, "Longest entry of bad_words.", minimum=1, unit="characters")
    max_logit_bias: int = config_parameter(1024, "Entries of logit_bias.", minimum=1)
    max_token_ids: int = config_parameter(
        16_384,
        "Ids in stop_token_ids, allowed_token_ids and other lists of token ids, and elements of a typed tensor.",
        minimum=1,
    )
    max_prompt_logprobs: int = config_parameter(
        200_000,
        "Tokens of the prompt times (prompt_logprobs + 1); for openai_request also what echo with logprobs asks for.",
        minimum=1,
    )
    max_repetition_pattern: int = config_parameter(
        256, "max_pattern_size and min_count of repetition_detection.", minimum=1
    )
    structured_max_bytes: int = config_parameter(
        256 * 1024,
        "JSON schema, regular expression, grammar, structural tag or list of choices of one request.",
        minimum=1,
        unit="bytes",
    )
    structured_compile_seconds: int = config_parameter(
        10,
        "Time that a constraint may take to compile with this model's tokenizer. A separate process with at most 1 GiB "
        "of memory compiles it before it reaches the engine.",
        minimum=1,
        unit="seconds",
    )
