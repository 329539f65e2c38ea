"""Request parameters that are not fields of vLLM's own, each declared once: type, default, trust and meaning."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from vllm_custom.contract.declare import request_parameter, request_specs
from vllm_custom.contract.specs import Trust, Use
from vllm_custom.contract.trace_context import is_usable

# Names of models and adapters, which messages repeat.
LONGEST_NAME = 256
_STRUCTURED = ("STRUCTURED_MAX_BYTES", "STRUCTURED_COMPILE_SECONDS")


def _from_json(value: Any, info: ValidationInfo) -> Any:
    """Objects may be JSON strings: Triton's endpoints take no nested values in ``parameters``.

    The context of the validation is what reads them: a function of the text and the field's name.
    """
    if not isinstance(value, str):
        return value
    return info.context(value, str(info.field_name)) if info.context else json.loads(value)


def _text_or_nothing(value: Any, info: ValidationInfo) -> Any:
    """W3C Trace Context: a header that cannot be used is ignored, and never a reason to refuse a request."""
    return value if is_usable(str(info.field_name), value) else None


JsonObject = Annotated[dict[str, Any], BeforeValidator(_from_json)]
# One wrong element is enough to refuse all of them; reasons for hundreds of thousands would take seconds to make.
JsonStrings = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_from_json)]


def _word_or_object(value: Any, info: ValidationInfo) -> Any:
    return _from_json(value, info) if isinstance(value, str) and value.lstrip()[:1] == "{" else value


JsonObjects = Annotated[list[dict[str, Any]], Field(fail_fast=True), BeforeValidator(_from_json)]
ToolChoice = Annotated[str | dict[str, Any], BeforeValidator(_word_or_object)]
TraceHeader = Annotated[str | None, BeforeValidator(_text_or_nothing)]


class RequestParameters(BaseModel):
    """The request parameters of this backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_name: str | None = request_parameter(
        None,
        "An adapter of multi_lora.json or LORA_DIR.",
        default_text="no adapter",
        official=True,
        max_length=LONGEST_NAME,
    )
    structured_outputs: JsonObject | None = request_parameter(
        None,
        "vLLM's StructuredOutputsParams: exactly one of json, regex, choice, grammar, json_object, structural_tag.",
        official=True,
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    guided_decoding: JsonObject | None = request_parameter(
        None,
        "Alias of structured_outputs, as the official backend of 2025 had it; the backend is the engine's alone.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    apply_chat_template: bool | None = request_parameter(
        None,
        "Whether text_input becomes a user turn of the chat template. messages are always templated.",
        default_text="true if media are sent without a placeholder, else false",
        use=Use.PROMPTS,
    )
    add_generation_prompt: bool | None = request_parameter(
        None,
        "Passed to the chat template: begin the assistant's turn.",
        default_text="true, but false for a pooling model",
        use=Use.PROMPTS,
    )
    continue_final_message: bool = request_parameter(
        False,
        "Passed to the chat template: leave the last message open, so that the model continues it.",
        use=Use.PROMPTS,
    )
    chat_template_kwargs: JsonObject = request_parameter(
        {},
        "Variables of the chat template with any name, such as enable_thinking, tools and documents. The key "
        "chat_template requires TRUST_REQUEST_CHAT_TEMPLATE; other arguments of the tokenizer are always refused.",
        trust=Trust.BOUNDED,
        by=("CHAT_TEMPLATE_KWARGS_MAX_BYTES", "TRUST_REQUEST_CHAT_TEMPLATE"),
    )
    mm_processor_kwargs: JsonObject = request_parameter(
        {},
        "Arguments of the model's media processor. Every client may lower max_pixels (the pixels that an image or "
        "frame is reduced to), from the model's smallest to its own max_pixels.",
        trust=Trust.OPERATOR,
        by=("TRUST_REQUEST_MM_KWARGS",),
        use=Use.PROMPTS,
    )
    tools: JsonObjects | None = request_parameter(
        None,
        "Tools that the model may call, in OpenAI's form; the output tool_calls has its calls, by vLLM's parser. "
        "Requires TOOL_CALL_PARSER and ENABLE_AUTO_TOOL_CHOICE, unless tool_choice is none.",
        trust=Trust.BOUNDED,
        by=("MAX_TOOLS", "CHAT_TEMPLATE_KWARGS_MAX_BYTES"),
        use=Use.GENERATION,
    )
    tool_choice: ToolChoice | None = request_parameter(
        None,
        "With tools: none, auto, required, or an object that names one of them, as OpenAI has it.",
        default_text="auto",
        type_text="string or JSON object",
        use=Use.GENERATION,
    )
    parallel_tool_calls: bool = request_parameter(
        True, "With tools: whether there may be several calls; else only the first counts.", use=Use.GENERATION
    )
    documents: JsonObjects | None = request_parameter(
        None,
        "Documents for the chat template (RAG), each usually with title and text. Over generate it goes into "
        "sampling_parameters, where it is not the input of that name.",
        trust=Trust.BOUNDED,
        by=("CHAT_TEMPLATE_KWARGS_MAX_BYTES",),
        use=Use.PROMPTS,
    )
    num_frames: int | None = request_parameter(
        None,
        "Frames taken from each video, spread evenly over it; at most VIDEO_MAX_FRAMES.",
        default_text="VIDEO_MAX_FRAMES, or num_frames of media_io_kwargs in model.json",
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
        ge=1,
        use=Use.PROMPTS,
    )
    fps: float | None = request_parameter(
        None,
        "Frames taken per second of a video; with num_frames as well, whichever takes fewer.",
        default_text="none, or fps of media_io_kwargs in model.json",
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
        gt=0,
        allow_inf_nan=False,
        use=Use.PROMPTS,
    )
    media_io_kwargs: JsonObject = request_parameter(
        {},
        'num_frames and fps as vLLM\'s server takes them: {"video": {"num_frames": 8, "fps": 2}}; and what shows where '
        'images are transparent: {"image": {"rgba_background_color": [0, 0, 0]}}.',
        trust=Trust.BOUNDED,
        by=("VIDEO_MAX_FRAMES",),
        use=Use.PROMPTS,
    )
    priority: int = request_parameter(
        0,
        "vLLM's priority scheduling (scheduling_policy: priority in model.json): a lower number is served earlier. "
        "KServe's protocols keep this name for Triton's own queue: over gRPC and /infer it goes into "
        "sampling_parameters.",
        ge=-(2**63),
        lt=2**63,
    )
    cache_salt: str | None = request_parameter(
        None,
        "Goes into the hashes of vLLM's prefix cache, so that only requests with the same salt share what is cached. "
        "At most 128 characters, none of them @, / or a backslash.",
        default_text="none: shared by all requests",
        min_length=1,
        max_length=128,
        pattern=r"^[^@/\\\x00]*$",
        use=Use.PROMPTS,
    )
    session_id: str | None = request_parameter(
        None,
        "What related requests have in common, for vLLM's events of its KV cache, by which routers send the next one "
        "to the same server.",
        min_length=1,
        max_length=LONGEST_NAME,
        use=Use.GENERATION,
    )
    data_parallel_rank: int | None = request_parameter(
        None,
        "Which of the engine's data-parallel ranks serves the request (data_parallel_size in model.json).",
        default_text="the least busy one",
        ge=0,
        lt=2**31,
        use=Use.GENERATION,
    )
    guided_json: JsonObject | None = request_parameter(
        None,
        "Alias of structured_outputs.json: the text is JSON that matches this JSON schema.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    guided_regex: str | None = request_parameter(
        None,
        "Alias of structured_outputs.regex: the whole text matches this regular expression.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    guided_choice: JsonStrings | None = request_parameter(
        None,
        "Alias of structured_outputs.choice: the text is one of these.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    guided_grammar: str | None = request_parameter(
        None,
        "Alias of structured_outputs.grammar: the text follows this grammar, in the format that the configured backend "
        "reads (GBNF, Lark).",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    guided_json_object: bool | None = request_parameter(
        None,
        "Alias of structured_outputs.json_object: the text is a JSON object.",
        default_text="false",
        use=Use.GENERATION,
    )
    guided_structural_tag: JsonObject | None = request_parameter(
        None,
        "Alias of structured_outputs.structural_tag: free text with parts between tags that follow schemas.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    response_format: JsonObject | None = request_parameter(
        None,
        "Structured outputs in OpenAI's form: type is text, json_object, json_schema or structural_tag. A request may "
        "have one constraint, whichever of these parameters sets it.",
        trust=Trust.BOUNDED,
        by=_STRUCTURED,
        use=Use.GENERATION,
    )
    timeout: int = request_parameter(
        0,
        "Time from the request's arrival after which it is aborted and answered UNAVAILABLE, at whatever stage it is. "
        "The timeout of a KServe request means the same; the shorter one applies.",
        default_text="0 (none)",
        unit="microseconds",
        ge=0,
        lt=2**63,
    )
    traceparent: TraceHeader = request_parameter(
        None,
        "W3C Trace Context for vLLM's OpenTelemetry spans (otlp_traces_endpoint in model.json); never refused. Where "
        "tritonserver traces in its OpenTelemetry mode, vLLM's spans are children of Triton's without it.",
    )
    tracestate: TraceHeader = request_parameter(None, "Vendor part of the Trace Context, with traceparent.")

    @property
    def trace_headers(self) -> dict[str, str] | None:
        """W3C Trace Context as vLLM takes it."""
        headers = {"traceparent": self.traceparent, "tracestate": self.tracestate}
        return {name: value for name, value in headers.items() if value} or None


REQUEST_PARAMETERS = request_specs(RequestParameters)


def names_for(use: Use) -> frozenset[str]:
    """The parameters with this use."""
    return frozenset(spec.name for spec in REQUEST_PARAMETERS if spec.use is use)
