"""What a media server sends: its body, how it is packed, and why it is not taken."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.sources.policy import Refusal

_UNPACKED_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
# Registered codings that change the body (RFC 9110, section 8.4). Clients leave it as it is for any other name, such as
# aws-chunked: object stores give back what the uploader sent.
_FOREIGN_CODINGS = frozenset({"br", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "zstd"})
_GZIP = b"\x1f\x8b"
_MOST_MEMBERS = 16  # of a gzip file; the rest of it is copied for each


class FetchError(Exception):
    """Why a URL was not fetched, as the client is told; ``rule`` is the policy's, where one was broken."""

    def __init__(self, reason: str, rule: Refusal | None = None) -> None:
        super().__init__(reason)
        self.rule = rule


class TooLargeError(FetchError):
    """The file is not fetched to its end."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"expected a file of at most {max_bytes} bytes (MEDIA_MAX_BYTES of this model), got more")


@dataclass(frozen=True)
class Body:
    """What a server sent, just now or earlier (``from_cache``); ``coding`` is its Content-Encoding, empty for none."""

    data: bytearray
    coding: str = ""
    from_cache: bool = False

    def __len__(self) -> int:
        return len(self.data)

    def decoded(self, field: str, max_bytes: int) -> bytes | bytearray:
        """The file itself. Blocking: it may have to be unpacked, which stops at ``max_bytes``.

        Raises:
            InvalidRequestError: too large unpacked, or damaged.
        """
        if not self.coding:
            return self.data
        try:
            data, whole = _unpacked(self.data, self.coding, max_bytes)
        except zlib.error as error:
            raise InvalidRequestError(f"{field}: the media server sent a damaged {self.coding} body") from error
        if len(data) > max_bytes:
            raise MediaLimitError(f"{field}: {TooLargeError(max_bytes)}", "bytes")
        if not whole:
            raise InvalidRequestError(f"{field}: the media server sent a truncated {self.coding} body")
        return data


def coding_of(headers: Sequence[str]) -> str:
    """The coding that has to be undone, by the values of Content-Encoding; empty for none.

    Raises:
        FetchError: one that was not asked for and cannot be undone.
    """
    named = [name.strip().lower() for header in headers for name in header.split(",")]
    codings = [name for name in named if name in _UNPACKED_CODINGS]
    if len(codings) > 1 or not _FOREIGN_CODINGS.isdisjoint(named):
        raise FetchError("the media server sent a Content-Encoding that was not requested")
    return codings[0] if codings else ""


def _unpacked(data: bytearray, coding: str, max_bytes: int) -> tuple[bytes | bytearray, bool]:
    """What gzip or deflate packed, up to a byte more than ``max_bytes``, and whether it is all there.

    gzip may have several members. "deflate" is zlib's format, and with some servers what is inside of it.
    """
    wbits = 32 + zlib.MAX_WBITS  # tells gzip and zlib apart by the header
    if coding == "deflate" and not _has_zlib_header(data) and data[:2] != _GZIP:
        wbits = -zlib.MAX_WBITS
    plain, rest = bytearray(), bytes(data)
    for _ in range(_MOST_MEMBERS):
        unpacker = zlib.decompressobj(wbits=wbits)
        plain += unpacker.decompress(rest, max_bytes + 1 - len(plain))
        rest = unpacker.unused_data
        if not unpacker.eof or len(plain) > max_bytes or rest[:2] != _GZIP:
            return plain, unpacker.eof
    raise zlib.error("too many members")


def _has_zlib_header(data: bytearray) -> bool:
    return len(data) > 1 and data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
