"""Request parameters: merge the two ways they arrive in, tell ours from vLLM's, refuse the unknown by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from vllm_custom.errors import InvalidRequestError, invalid, listing, shorten, suggestion
from vllm_custom.request.field_rules import check_fields
from vllm_custom.request.json_text import json_object, parse_json
from vllm_custom.request.processor_kwargs import check_processor_kwargs
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.template_kwargs import check_template_kwargs

# What Triton itself puts beside the client's parameters.
_TRITON_PARAMETERS = frozenset({"id", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"})
_TRITON_PREFIX = "triton_"
# Headers that Triton was told to forward arrive as parameters, in the client's spelling.
_HEADERS = frozenset({"traceparent", "tracestate"})
_LONGEST_HEADER = max(map(len, _HEADERS))
# Names of models and adapters, which messages repeat.
LONGEST_NAME = 256
_LONGEST_TRACE_HEADER = 8192


def _from_json(value: Any, info: ValidationInfo) -> Any:
    """Objects may be JSON strings: Triton's endpoints take no nested values in ``parameters``."""
    if not isinstance(value, str):
        return value
    return parse_json(value, str(info.field_name), "a JSON value", info.context or ClientRules())


def _text_or_nothing(value: Any) -> Any:
    """W3C Trace Context: a header that cannot be used is ignored, and never a reason to refuse a request."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_TRACE_HEADER else None


JsonObject = Annotated[dict[str, Any], BeforeValidator(_from_json)]
# One wrong element is enough to refuse all of them; reasons for hundreds of thousands would take seconds to make.
JsonStrings = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_from_json)]
TraceHeader = Annotated[str | None, BeforeValidator(_text_or_nothing)]


class ControlParameters(BaseModel):
    """The request parameters of the contract table; their meaning stands there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_name: str | None = Field(default=None, max_length=LONGEST_NAME)
    structured_outputs: JsonObject | None = None
    apply_chat_template: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    mm_processor_kwargs: JsonObject = Field(default_factory=dict)
    num_frames: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    media_io_kwargs: JsonObject = Field(default_factory=dict)
    priority: int = Field(default=0, ge=-(2**63), lt=2**63)  # what vLLM can send to its engine
    guided_json: JsonObject | None = None
    guided_regex: str | None = None
    guided_choice: JsonStrings | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_structural_tag: JsonObject | None = None
    response_format: JsonObject | None = None
    timeout: int = Field(default=0, ge=0, lt=2**63)
    traceparent: TraceHeader = None
    tracestate: TraceHeader = None

    @property
    def trace_headers(self) -> dict[str, str] | None:
        """W3C Trace Context as vLLM takes it."""
        headers = {"traceparent": self.traceparent, "tracestate": self.tracestate}
        return {name: value for name, value in headers.items() if value} or None


# In the order of the table, for messages.
_CONTROL_NAMES = tuple(ControlParameters.model_fields)


def parse_parameters(
    request_parameters: str,
    sampling_parameters: str | bytes | None,
    sampling_names: Sequence[str],
    typed: Mapping[str, Any] | None = None,
    rules: ClientRules | None = None,
) -> tuple[dict[str, Any], ControlParameters]:
    """Split the parameters into vLLM's sampling parameters (as sent) and ours (typed).

    Args:
        request_parameters: JSON text of the request's own parameters; may be empty.
        sampling_parameters: JSON text of the tensor of that name, which wins.
        sampling_names: fields of the installed vLLM's SamplingParams.
        typed: values of input tensors that are named like parameters, which win over both.
        rules: what a client may set; None for the defaults.

    Raises:
        InvalidRequestError: an unknown name, a value of the wrong type, or what a client may not set.
    """
    rules = rules or ClientRules()
    given = json_object(request_parameters or "{}", "parameters", rules)
    given = {_spelling(key): value for key, value in given.items() if not _is_tritons(key)}
    if sampling_parameters is not None:
        given |= json_object(sampling_parameters, "sampling_parameters", rules)
    given |= typed or {}
    ours = {key: value for key, value in given.items() if key in _CONTROL_NAMES}
    sampling = {key: value for key, value in given.items() if key not in ours}
    for name in sampling:
        if name not in sampling_names:
            raise InvalidRequestError(_unknown(name, [*sampling_names, *_CONTROL_NAMES]))
    control = _control(ours, rules)
    return check_fields(sampling, rules), control


def _control(ours: Mapping[str, Any], rules: ClientRules) -> ControlParameters:
    try:
        control = ControlParameters.model_validate(ours, context=rules)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise invalid(name, ours[name], f"a valid value ({first['msg']})") from error
    check_template_kwargs(control.chat_template_kwargs, rules)
    check_processor_kwargs(control.mm_processor_kwargs, rules)
    return control


def _spelling(key: str) -> str:
    if len(key) > _LONGEST_HEADER:
        return key
    return key.lower() if key.lower() in _HEADERS else key


def _is_tritons(key: str) -> bool:
    return key in _TRITON_PARAMETERS or key.startswith(_TRITON_PREFIX)


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"unknown parameter {shorten(name)}{suggestion(name, known)} (known: {listing(known)})"
