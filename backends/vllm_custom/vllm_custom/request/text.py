"""Text that comes in BYTES tensors."""

from __future__ import annotations

from vllm_custom.errors import invalid


def decode(name: str, value: bytes | str) -> str:
    """An element of a BYTES tensor as text; ``name`` is the field in messages.

    Raises:
        InvalidRequestError: it is not UTF-8.
    """
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(name, value, f"UTF-8 text (byte {error.start} is not)") from error
