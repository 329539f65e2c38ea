"""Forms (multipart/form-data) as JSON, as they travel to Triton's model: fields as texts, a file as base64."""

from __future__ import annotations

import base64
import json
from email.message import Message
from email.parser import BytesHeaderParser

from vllm_custom_frontend import errors

_TYPE = "multipart/form-data"
_FILE = "file"
_MOST_PARTS = 100
_MOST_HEADER_BYTES = 16 * 1024
# Of a header. Python's own parser looks at the rest of the header for each of them, and for each again.
_MOST_PARAMETERS = 32
_MOST_TEXT_BYTES = 1024 * 1024
# No other thread has the interpreter while bytes are made base64; a multiple of three.
_PIECE_BYTES = 768 * 1024
_DISPOSITION = "content-disposition"


def is_form(content_type: str) -> bool:
    """Whether a body of this content type is a form."""
    return content_type.partition(";")[0].strip().lower() == _TYPE


def form_as_json(body: bytes, content_type: str) -> bytes:
    """A JSON object of the form's fields; a field that comes several times is a list of texts.

    Args:
        body: the form.
        content_type: names its boundary.

    Raises:
        FrontendError: it is no form, has too much in it, or a file that is not called ``file``.
    """
    fields: dict[str, list[bytes]] = {}
    for part in _parts(body, content_type):
        name, value = _field(part)
        fields.setdefault(name, []).append(value)
    pieces = [b"{"]
    for name, found in fields.items():
        pieces += [b", " if len(pieces) > 1 else b"", json.dumps(name).encode(), b": "]
        pieces += found if len(found) == 1 else [b"[", b", ".join(found), b"]"]
    return b"".join([*pieces, b"}"])


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """What is between the boundaries: headers, an empty line, content."""
    header = Message()
    header["content-type"] = content_type
    boundary = _parameter(header, "boundary", "content-type")
    if not isinstance(boundary, str) or not boundary.rstrip():
        raise errors.bad_form("a boundary in its content-type")
    mark = b"\r\n--" + boundary.rstrip().encode("utf-8", "replace")
    # One more split than there may be: the first piece is the preamble, and the last the end.
    _, *parts = (b"\r\n" + body).split(mark, _MOST_PARTS + 2)
    if len(parts) > _MOST_PARTS + 1:
        raise errors.bad_form(f"at most {_MOST_PARTS} fields")
    if not parts or not parts.pop().startswith(b"--"):
        raise errors.bad_form("a closing boundary; the form is cut off, or its boundary is another one")
    return parts


def _field(part: bytes) -> tuple[str, bytes]:
    """Its name, and its value as JSON."""
    head, found, content = part.lstrip(b" \t").partition(b"\r\n\r\n")
    if not found or len(head) > _MOST_HEADER_BYTES:
        raise errors.bad_form("headers and an empty line in front of each field")
    headers = BytesHeaderParser().parsebytes(head.removeprefix(b"\r\n"))
    name = _parameter(headers, "name", _DISPOSITION)
    if not isinstance(name, str) or not name:
        raise errors.bad_form("a name for each field")
    if _parameter(headers, "filename", _DISPOSITION) is not None:
        if name != _FILE:
            raise errors.bad_form(f"no file but {_FILE}, got one named {errors.shortened(name)}")
        return name, _base64(content)
    if name == _FILE:
        raise errors.bad_form("file with a filename, as clients send files; got a text")
    return name, json.dumps(_text(name, content)).encode()


def _parameter(headers: Message, name: str, header: str) -> object:
    """None where there is none; a tuple where it is encoded as mails have it."""
    if str(headers.get(header, "")).count(";") > _MOST_PARAMETERS:
        raise errors.bad_form(f"at most {_MOST_PARAMETERS} parameters in the header {header}")
    try:
        return headers.get_param(name, header=header)
    except ValueError as error:  # a number of thousands of digits
        raise errors.bad_form(f"parameters that can be read in the header {header}") from error


def _base64(content: bytes) -> bytes:
    """As a text of JSON."""
    starts = range(0, len(content), _PIECE_BYTES)
    pieces = (base64.b64encode(content[start : start + _PIECE_BYTES]) for start in starts)
    return b"".join([b'"', *pieces, b'"'])


def _text(name: str, content: bytes) -> str:
    if len(content) > _MOST_TEXT_BYTES:
        raise errors.bad_form(
            f"at most {_MOST_TEXT_BYTES} bytes of text in a field, got more in {errors.shortened(name)}"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise errors.bad_form(f"UTF-8 in the field {errors.shortened(name)}") from error
