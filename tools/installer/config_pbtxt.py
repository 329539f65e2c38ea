"""config.pbtxt as the JSON that tritonserver's load takes in its place.

Triton keeps a model that is loaded with a configuration which differs in instance_group alone, and changes its
instances. It compares with the file, not with what the server tells of a model, which is completed. So the file has to
be read, with nothing but Python: protobuf's text format, as far as configurations use it.
"""

import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(
    r"\s+|\#[^\n]*|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')|(?P<word>[A-Za-z_][\w.]*)"
    r"|(?P<number>[+-]?(?:\d|\.\d)[\w.+-]*)|(?P<mark>[{}\[\]<>:,;])|(?P<wrong>.)",
    re.DOTALL,
)
# Of protobuf's message ModelConfig: fields that are lists, and those that are maps, each under its name.
# fmt: off
LISTS = frozenset((
    "agents", "batch_input", "batch_output", "bool_false_true", "buckets", "control", "control_input",
    "cpu_execution_accelerator", "dim", "dims", "fp32_false_true", "gpu_execution_accelerator", "gpus",
    "graph_spec", "initial_state", "input", "instance_group", "int32_false_true", "metric_control",
    "model_warmup", "op_library_filename", "output", "preferred_batch_size", "profile", "resources",
    "secondary_devices", "shape", "source_input", "state", "step", "target_name", "versions",
))
MAPS = frozenset((
    "cc_model_filenames", "input_map", "inputs", "metric_tags", "output_map", "parameters", "priority_queue_policy",
))
# fmt: on
# `input` is a map here, and a list everywhere else.
INPUT_IS_MAP_IN = frozenset(("graph_spec", "graph_lower_bound"))
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse(text: str) -> dict[str, Any]:
    """The message as a JSON object.

    Raises:
        ValueError: it is none, or uses what configurations do not.
    """
    tokens = _Tokens(text)
    return _message(tokens, "", end="")


class _Tokens:
    """The tokens of a text, one after the other; each is its kind and itself."""

    def __init__(self, text: str) -> None:
        self._rest = self._split(text)
        self.kind, self.value = "", ""
        self.advance()

    def advance(self) -> str:
        """Go on to the next one, and return the one before. After the last one comes one of no kind."""
        before = self.value
        self.kind, self.value = next(self._rest, ("", ""))
        return before

    def accept(self, *marks: str) -> str:
        """Go on if one of these comes next; which one."""
        return self.advance() if self.kind == "mark" and self.value in marks else ""

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        for match in _TOKEN.finditer(text):
            if match.lastgroup == "wrong":
                raise ValueError(f"config.pbtxt: unexpected {match.group()!r}")
            if match.lastgroup:
                yield match.lastgroup, match.group()


def _message(tokens: _Tokens, name: str, end: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not (tokens.accept(end) if end else not tokens.kind):
        if tokens.kind != "word":
            raise ValueError(f"config.pbtxt: expected the name of a field, got {tokens.value!r}")
        field = tokens.advance()
        for value in _values(tokens, field):
            _add(found, name, field, value)
        tokens.accept(",", ";")
    return found


def _add(message: dict[str, Any], name: str, field: str, value: Any) -> None:
    if field in MAPS or (field == "input" and name in INPUT_IS_MAP_IN):
        message.setdefault(field, {})[str(value.get("key", ""))] = value.get("value", {})
    elif field in LISTS:
        message.setdefault(field, []).append(value)
    else:
        message[field] = value


def _values(tokens: _Tokens, field: str) -> list[Any]:
    tokens.accept(":")
    if not tokens.accept("["):
        return [_value(tokens, field)]
    values: list[Any] = []
    while not tokens.accept("]"):
        values.append(_value(tokens, field))
        tokens.accept(",")
    return values


def _value(tokens: _Tokens, field: str) -> Any:
    if opened := tokens.accept("{", "<"):
        return _message(tokens, field, "}" if opened == "{" else ">")
    if tokens.kind == "text":
        pieces = []
        while tokens.kind == "text":  # neighbours are one string
            pieces.append(_unescaped(tokens.advance()[1:-1]))
        return b"".join(pieces).decode("utf-8")
    kind, value = tokens.kind, tokens.advance()
    if kind == "word":
        return {"true": True, "false": False}.get(value.lower(), value)
    if kind == "number":
        return float(value) if re.search(r"[.eE]", value) and not value.lower().startswith("0x") else int(value, 0)
    raise ValueError(f"config.pbtxt: expected a value of {field}, got {value!r}")


def _unescaped(text: str) -> bytes:
    parts, at = [], 0
    for match in _ESCAPE.finditer(text):
        octal, hexadecimal, letter = match.groups()
        parts.append(text[at : match.start()].encode())
        code = int(octal, 8) if octal else int(hexadecimal, 16) if hexadecimal else None
        parts.append(bytes([code & 0xFF]) if code is not None else _ESCAPED.get(letter, letter).encode())
        at = match.end()
    return b"".join([*parts, text[at:].encode()])
