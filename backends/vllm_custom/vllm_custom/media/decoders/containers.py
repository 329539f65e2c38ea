"""Open a file that a client sent with FFmpeg, which may read it from memory, and nothing else.

By itself FFmpeg goes by content, and its formats include playlists and session descriptions (HLS, DASH, concat, SDP)
that make it read other files, connect to hosts, and open ports. So a caller names the formats and codecs that it takes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.media.decoders.kinds import kind_of

OPEN_OPTIONS = {"protocol_whitelist": "none"}  # the empty list would mean all


@contextmanager
def open_container(
    data: bytes, field: str, kind: Literal["audio", "video"], options: Mapping[str, str], expected: str
) -> Iterator[Any]:
    """An open file with a stream of this ``kind``; failures inside the ``with`` block are the file's.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"audio[0]"``.
        kind: of the stream that is needed.
        options: for FFmpeg, with the formats and codecs that are allowed.
        expected: the formats, for messages.

    Raises:
        InvalidRequestError: another kind of file, or a damaged one.
        UnsupportedError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UnsupportedError(
            f"{field}: {kind} requires the Python package av, which this server does not have"
        ) from error
    try:
        with av.open(io.BytesIO(data), "r", options={**OPEN_OPTIONS, **options}) as container:
            if not getattr(container.streams, kind):
                raise InvalidRequestError(f"{field}: contains no {kind} stream; expected {expected}")
            yield container
    except (InvalidRequestError, MemoryError):
        raise
    except Exception as error:  # FFmpeg's errors and those of the binding around it
        message = f"{field}: expected {expected}, got {kind_of(data) or 'data'} that cannot be decoded as {kind}"
        raise InvalidRequestError(message) from error
