"""Request parameters: merge the two ways they arrive in, tell ours from vLLM's, refuse the unknown by name."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from vllm_custom.contract.names import SAMPLING_PARAMETERS
from vllm_custom.contract.request_parameters import LONGEST_NAME as LONGEST_NAME
from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.errors import InvalidRequestError, invalid, listing, shorten, suggestion
from vllm_custom.request.field_rules import check_fields
from vllm_custom.request.json_text import json_object, parse_json
from vllm_custom.request.processor_kwargs import check_processor_kwargs
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.template_kwargs import check_template_kwargs, check_template_list
from vllm_custom.request.tool_rules import check_tools

# What Triton itself adds to the client's parameters.
_TRITON_PARAMETERS = frozenset({"id", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"})
_TRITON_PREFIX = "triton_"
# Headers that Triton was told to forward arrive as parameters, in the client's spelling.
_HEADERS = frozenset({"traceparent", "tracestate"})
_LONGEST_HEADER = max(map(len, _HEADERS))
# Others have a hyphen in their names, or one of these. --http-header-forward-pattern may let all of them through.
_OTHER_HEADERS = frozenset(
    {
        "accept",
        "authorization",
        "b3",
        "baggage",
        "connection",
        "cookie",
        "cookie2",
        "date",
        "digest",
        "dnt",
        "expect",
        "forwarded",
        "from",
        "host",
        "origin",
        "pragma",
        "priority",
        "range",
        "referer",
        "signature",
        "te",
        "trailer",
        "upgrade",
        "via",
        "warning",
    }
)
_LONGEST_OTHER = max(map(len, _OTHER_HEADERS))


_CONTROL_NAMES = tuple(RequestParameters.model_fields)


def parse_parameters(
    request_parameters: str,
    sampling_parameters: str | bytes | None,
    sampling_names: Sequence[str],
    typed: Mapping[str, Any] | None = None,
    rules: ClientRules | None = None,
) -> tuple[dict[str, Any], RequestParameters]:
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
    known = (*sampling_names, *_CONTROL_NAMES)
    given = {_spelling(key): value for key, value in given.items() if not _is_passed_over(key, known)}
    if sampling_parameters is not None:
        given |= json_object(sampling_parameters, SAMPLING_PARAMETERS, rules)
    given |= typed or {}
    ours = {key: value for key, value in given.items() if key in _CONTROL_NAMES}
    sampling = {key: value for key, value in given.items() if key not in ours}
    for name in sampling:
        if name not in sampling_names:
            raise InvalidRequestError(_unknown(name, known))
    control = _control(ours, rules)
    return check_fields(sampling, rules), control


def _parse_json(text: str, name: str, rules: ClientRules) -> Any:
    return parse_json(text, name, "a JSON value", rules)


def _control(ours: Mapping[str, Any], rules: ClientRules) -> RequestParameters:
    try:
        control = RequestParameters.model_validate(ours, context=functools.partial(_parse_json, rules=rules))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise invalid(name, ours[name], f"a valid value ({first['msg']})") from error
    check_template_kwargs(control.chat_template_kwargs, rules)
    check_tools(control, rules)
    check_template_list("documents", control.documents, control.chat_template_kwargs, rules)
    check_processor_kwargs(control.mm_processor_kwargs, rules)
    return control


def _spelling(key: str) -> str:
    if len(key) > _LONGEST_HEADER:
        return key
    return key.lower() if key.lower() in _HEADERS else key


def _is_passed_over(key: str, known: Collection[str]) -> bool:
    """Whether a name among the request's own parameters is Triton's or a header's. ``top-p`` is meant as ours."""
    if key in _TRITON_PARAMETERS or key.startswith(_TRITON_PREFIX):
        return True
    if "-" in key:
        return key.replace("-", "_") not in known
    return len(key) <= _LONGEST_OTHER and key not in known and key.lower() in _OTHER_HEADERS


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"unknown parameter {shorten(name)}{suggestion(name, known)} (known: {listing(known)})"
