"""What FFmpeg may do with a file that a client sent: read these containers from memory, and nothing else.

By itself FFmpeg goes by content, and its formats include playlists and session descriptions (HLS, DASH, concat, SDP)
that make it read other files, connect to hosts, and open ports.
"""

from __future__ import annotations

import functools
import os

VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
# The empty list would mean all.
OPEN_OPTIONS = {"protocol_whitelist": "none"}

_OPENCV_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


@functools.cache
def restrict_opencv() -> None:
    """Hold the FFmpeg inside OpenCV, which vLLM's video reader uses, to :data:`VIDEO_FORMATS`; for the process."""
    ours = OPEN_OPTIONS | {"format_whitelist": VIDEO_FORMATS}
    given = os.environ.get(_OPENCV_VARIABLE)
    pairs = [*([given] if given else []), *(f"{key};{value}" for key, value in ours.items())]
    os.environ[_OPENCV_VARIABLE] = "|".join(pairs)  # of two values for a key the later one counts


def is_video(data: bytes) -> bool:
    """Whether a file begins like MP4, QuickTime, Matroska or WebM."""
    return data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") or data.startswith(b"\x1aE\xdf\xa3")
