"""Forms with a file, as HTTP clients send them."""

from __future__ import annotations

from tests.support.frontend_process import HttpAnswer, HttpApi

_BOUNDARY = "f0rm--boundary"


def form(file: bytes | None, *fields: tuple[str, str], filename: str = "a.wav") -> tuple[str, bytes]:
    """Content type and body."""
    mark = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{mark}"{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields]
    if file is not None:
        head = f'{mark}"file"; filename="{filename}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + file + b"\r\n")
    return f"multipart/form-data; boundary={_BOUNDARY}", b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def send_form(api: HttpApi, path: str, file: bytes | None, **fields: str) -> HttpAnswer:
    """The answer to a form."""
    content_type, body = form(file, *fields.items())
    return api.call("POST", path, body, content_type=content_type)
