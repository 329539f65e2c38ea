"""The input openai_request: which route of vLLM's OpenAI API, with what body. Pure: no Triton, no vLLM."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_custom.contract.names import OPENAI_REQUEST, STREAM
from vllm_custom.contract.routes import CANCEL_PATH, FORM_PATHS, OPENAI_PATHS, RESPONSES_PATH, is_one_of, is_path
from vllm_custom.contract.trace_context import TRACE_HEADERS, is_usable
from vllm_custom.errors import InvalidRequestError, invalid, listing
from vllm_custom.openai.forms import check_form, without_file
from vllm_custom.openai.rules import check_body, check_length
from vllm_custom.request.context import RequestContext
from vllm_custom.request.field_rules import sequences
from vllm_custom.request.json_text import check_size, json_object, parse_json
from vllm_custom.request.parameters import parse_parameters
from vllm_custom.request.parse import raw_element
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors

_BODY = f"{OPENAI_REQUEST}.body"

_METHODS = ("GET", "POST")
# As HTTP servers have it.
_MOST_HEADERS = 100
_MOST_HEADER_CHARACTERS = 64 * 1024
_KEYS = frozenset({"path", "method", "headers", "body"})
# What the body decides by itself, or what belongs to one connection.
_DROPPED_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "host", "authorization", "cookie"})
_MOST_QUERY_CHARACTERS = 4096
# Envelopes without a body are not longer.
_SHORT_BYTES = 8192
_REQUEST_ID = "x-request-id"
_TRUE = frozenset({"true", "1", "on", "yes", "t", "y"})
# The request parameters of Triton that mean something here; everything else stands in the body.
_PARAMETERS = frozenset({"timeout", "traceparent", "tracestate"})


@dataclass(frozen=True)
class OpenAICall:
    """One call of the application.

    Attributes:
        path: the route.
        body: the JSON object of the request; None for GET; text where it is not an object, for vLLM to refuse.
        headers: names in lower case.
        timeout: microseconds from the request's arrival, 0 for none.
        size: of the whole input as it was sent, in bytes.
        query: what follows the path, without the question mark.
    """

    path: str
    method: str
    body: dict[str, Any] | str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: int = 0
    size: int = field(default=0, compare=False)
    query: str = ""

    @property
    def model(self) -> str | None:
        """The ``model`` of the body: this model, or one of its adapters."""
        name = self.body.get("model") if isinstance(self.body, dict) else None
        return name if isinstance(name, str) else None

    @property
    def streamed(self) -> bool:
        """Whether the body asks for server-sent events."""
        return self._is_set("stream")

    @property
    def background(self) -> bool:
        """Whether the answer comes at once, and the work goes on."""
        return self._is_set("background") and self.path == RESPONSES_PATH

    @property
    def looks_up(self) -> bool:
        """Whether it gives the engine nothing to do: frontends ask for lists of models again and again."""
        return self.method == "GET" or is_path(self.path, CANCEL_PATH)

    @property
    def sequences(self) -> int:
        """How many the engine will run at once: n of each prompt; what a pooling model reads counts as one.

        What is only looked up costs no place, and what runs in the background has a place of its own.
        """
        return 0 if self.looks_up or self.background else self.all_sequences

    @property
    def all_sequences(self) -> int:
        """As :attr:`sequences`, whether they run before the answer or behind it."""
        if not isinstance(self.body, dict):
            return 1
        prompt = self.body.get("prompt")
        several = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)) else [prompt]
        return sequences(self.body) * len(several)

    def is_allowed(self, more: Collection[str] = ()) -> bool:
        """Whether the path may be called; ``more`` are those that the model's configuration adds."""
        return is_one_of(self.path, OPENAI_PATHS) or is_one_of(self.path, more)

    def _is_set(self, name: str) -> bool:
        """As vLLM reads it, which takes 1 and some words for true."""
        value = self.body.get(name) if isinstance(self.body, dict) else None
        return value.lower() in _TRUE if isinstance(value, str) else isinstance(value, (int, float)) and value == 1


def parse_openai_request(tensors: Tensors, parameters: str, rules: ClientRules | None = None) -> OpenAICall:
    """Read the input ``openai_request`` of one row and the request's parameters.

    Args:
        tensors: contract inputs by name, without a batch dimension.
        parameters: the request's parameters as JSON text.
        rules: what a client may set, and how much of it; None for the defaults.

    Raises:
        InvalidRequestError: not the expected JSON, combined with other inputs, or with what a client may not set.
    """
    rules = rules or ClientRules()
    # Many clients of generate_stream always send stream; whether the answer is one is said in the body.
    others = sorted(set(tensors) - {OPENAI_REQUEST, STREAM})
    if others:
        raise InvalidRequestError(f"{OPENAI_REQUEST}: cannot be combined with other inputs; got {listing(others)}")
    raw = raw_element(tensors, OPENAI_REQUEST)
    envelope = json_object(raw, OPENAI_REQUEST, rules)
    for key in envelope:
        if key not in _KEYS:
            raise invalid(OPENAI_REQUEST, key, f"only the keys {', '.join(sorted(_KEYS))}")
    path = envelope.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise invalid(f"{OPENAI_REQUEST}.path", path, "a path such as /v1/chat/completions")
    path, query = split_query(path)
    body = _body(envelope.get("body"), rules, path, len(raw))
    method = envelope.get("method", "GET" if body is None else "POST")
    if method not in _METHODS:
        raise invalid(f"{OPENAI_REQUEST}.method", method, " or ".join(_METHODS))
    _, control = parse_parameters(parameters, None, (), rules=rules)
    extra = sorted(control.model_fields_set - _PARAMETERS)
    if extra:
        raise InvalidRequestError(f"{', '.join(extra)}: with {OPENAI_REQUEST}, set parameters in its body")
    return OpenAICall(
        path=path,
        method=method,
        body=body,
        headers={**(control.trace_headers or {}), **_headers(envelope.get("headers", {}))},
        timeout=control.timeout,
        size=len(raw),
        query=query,
    )


def looks_up(raw: bytes) -> bool:
    """Whether the envelope only looks something up, or ends work, by a glance: what is long or malformed does not."""
    if len(raw) > _SHORT_BYTES:
        return False
    try:
        envelope = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    if not isinstance(envelope, dict) or envelope.get("body") is not None:
        return False
    path = envelope.get("path")
    ends = isinstance(path, str) and is_path(path.partition("?")[0], CANCEL_PATH)
    return ends or envelope.get("method", "GET") == "GET"


def read_openai_call(
    method: str, path: str, headers: Mapping[str, str], body: str | None, rules: ClientRules
) -> OpenAICall:
    """A request that came by HTTP, read as the envelope of one with the same content.

    Args:
        method: GET or POST.
        path: the route, with a query string where there is one.
        headers: names in lower case.
        body: text that is JSON, or is not; None for none.
        rules: what a client may set, and how much of it.

    Raises:
        InvalidRequestError: as :func:`parse_openai_request`.
    """
    path, query = split_query(path)
    size = len(body or "")
    return OpenAICall(path, method, _body(body, rules, path, size, "body"), _headers(dict(headers)), query=query)


def split_query(path: str) -> tuple[str, str]:
    """A path, and what follows the question mark behind it.

    Raises:
        InvalidRequestError: what follows is long, or not what a URL may hold.
    """
    path, _, query = path.partition("?")
    if len(query) > _MOST_QUERY_CHARACTERS or not (query.isascii() and query.isprintable()):
        raise invalid(f"{OPENAI_REQUEST}.path", query, f"a query of at most {_MOST_QUERY_CHARACTERS} ASCII characters")
    return path, query


def _body(given: Any, rules: ClientRules, path: str, size: int, name: str = _BODY) -> dict[str, Any] | str | None:
    """The body, in a text of ``size`` characters; JSON in a string is read, so that no rule can be passed by."""
    if given is None:
        return None
    if isinstance(given, str):
        check_size(given, name, rules)
        try:
            given = parse_json(given, name, "JSON", rules)
        except InvalidRequestError:
            if len(given) > rules.limits["OPENAI_MAX_BODY_BYTES"] or _is_json(given) or path in FORM_PATHS:
                raise
            return str(given)
    if path in FORM_PATHS and not isinstance(given, dict):
        raise invalid(name, given, "multipart/form-data with a file, or a JSON object of its fields")
    if not isinstance(given, dict):
        return json.dumps(given)
    check_body(given, rules, path)
    if path in FORM_PATHS:
        check_form(given)
    if size > rules.limits["OPENAI_MAX_BODY_BYTES"]:
        check_length(without_file(given) if path in FORM_PATHS else given, rules)
    return given


def _is_json(text: str) -> bool:
    """Whether vLLM's server would read it, which is less strict than we are and takes UTF-16 from its zero bytes."""
    try:
        json.loads(text.encode())
    except (ValueError, RecursionError) as error:
        return isinstance(error, RecursionError)
    return True


def _headers(given: Any) -> dict[str, str]:
    """By names in lower case. The id of a request is cut down like Triton's: each piece of an answer repeats it."""
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise invalid(f"{OPENAI_REQUEST}.headers", given, "an object of strings")
    if len(given) > _MOST_HEADERS or sum(map(len, (*given, *given.values()))) > _MOST_HEADER_CHARACTERS:
        raise invalid(
            f"{OPENAI_REQUEST}.headers",
            given,
            f"{_MOST_HEADERS} headers and {_MOST_HEADER_CHARACTERS} characters at most",
        )
    headers = {name.lower(): value for name, value in given.items()}
    for name, value in headers.items():
        if not name.isascii() or not all(char.isprintable() and ord(char) < 256 for char in value):
            raise invalid(f"{OPENAI_REQUEST}.headers", name, "printable Latin-1 text")
    if _REQUEST_ID in headers:
        headers[_REQUEST_ID] = RequestContext.of(headers[_REQUEST_ID]).request_id
    unusable = {name for name in TRACE_HEADERS if not is_usable(name, headers.get(name))}
    return {name: value for name, value in headers.items() if name not in _DROPPED_HEADERS | unusable}
