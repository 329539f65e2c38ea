"""What is fuzzed: each target takes any bytes, and must end with a result or with an error of ours.

A target asserts what has to hold for everything that it accepts. Anything else that is raised is a finding.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vllm_custom.chat import messages as chat_messages
from vllm_custom.contract.hosts import HostPattern
from vllm_custom.errors import BackendError, InvalidRequestError
from vllm_custom.media.decoders.audio import decode_audio, measure_audio
from vllm_custom.media.decoders.frames import ChosenFrames, FrameSampling
from vllm_custom.media.decoders.image import decode_image, measure_image, shown_size
from vllm_custom.media.decoders.video import decode_video, look_at_video, measure_video
from vllm_custom.media.sources.local import LocalFiles
from vllm_custom.media.sources.policy import MediaPolicy, Target, loggable
from vllm_custom.media.sources.reference import encoded_bytes, scheme_of

MAX_BYTES = 1 << 16
MAX_PIXELS = 1 << 18
MAX_FRAMES = 4
MAX_WORK = 1 << 26
MAX_SECONDS = 2
RATE = 16_000

_POLICY = MediaPolicy(
    (HostPattern.parse("media.test"), HostPattern.parse("*.cdn.test:8080"), HostPattern.parse("127.0.0.1")),
    (ip_network("127.0.0.1/32"),),
)
_ORIGIN = _POLICY.check_url("http://media.test/a/b?c")
assert isinstance(_ORIGIN, Target)
_FOLDER = tempfile.TemporaryDirectory(prefix="vllm_custom_fuzz_")
_SECRET = b"not below the folder"
_INSIDE = Path(_FOLDER.name, "inside")
_INSIDE.mkdir()
(_INSIDE / "a.png").write_bytes(b"inside")
Path(_FOLDER.name, "secret").write_bytes(_SECRET)
(_INSIDE / "link").symlink_to(Path(_FOLDER.name, "secret"))


def reference(data: bytes) -> None:
    """An element of `image`: what it is, and the bytes that it holds."""
    scheme_of(data)
    encoded = encoded_bytes(data, "image[0]", MAX_BYTES)
    assert len(encoded) <= MAX_BYTES


def url(data: bytes) -> None:
    """A URL, as sent and as a redirect's destination."""
    text = data.decode("utf-8", "surrogateescape")
    for decision in (_POLICY.check_url(text), _POLICY.check_redirect(_ORIGIN, text, 1)):
        if isinstance(decision, Target):
            assert decision.host in ("media.test", "127.0.0.1") or decision.host.endswith(".cdn.test")
            assert _POLICY.check_url(decision.url) == decision, "what is fetched is not what was judged"
            assert loggable(decision.url).isascii()
            assert "?" not in loggable(decision.url)


def local(data: bytes) -> None:
    """A file: URL; only the one file below the folder can be read."""
    path = data.decode("utf-8", "surrogateescape").replace("FOLDER", _FOLDER.name)
    assert LocalFiles(_INSIDE).read(path, "image[0]", MAX_BYTES) == b"inside"


def messages(data: bytes) -> None:
    """The input `messages`, parsed as JSON."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(parsed, list) or not all(isinstance(message, dict) for message in parsed):
        return
    found = chat_messages.media_elements(parsed)
    chat_messages.with_handles(parsed, ["handle"] * len(found), ["uuid"] * len(found))


def image(data: bytes) -> None:
    """An image's file."""
    most = measure_image(data, "image[0]", MAX_PIXELS)
    decoded = decode_image(data, "image[0]", MAX_PIXELS)
    assert decoded.mode == "RGB"
    assert decoded.width * decoded.height <= MAX_PIXELS
    assert decoded.width * decoded.height * 4 <= most
    assert shown_size(data, "image[0]", MAX_PIXELS) == decoded.size
    assert decode_image(data, "image[0]", MAX_PIXELS, [(28, 56)]).size == (28, 56)


def video(data: bytes) -> None:
    """A video's file. What is larger than it was measured to be, the workers refuse."""
    limits = ("video[0]", MAX_PIXELS, MAX_WORK, FrameSampling(MAX_FRAMES))
    most = measure_video(data, *limits)
    frames, metadata = decode_video(data, *limits, allocate=functools.partial(_allocate, most))
    assert frames.dtype == np.uint8
    assert 0 < len(frames) <= MAX_FRAMES
    assert frames.shape[1] * frames.shape[2] <= MAX_PIXELS
    assert len(metadata["frames_indices"]) == len(frames)
    look = look_at_video(data, *limits[:3])
    assert (look.height, look.width) == frames.shape[1:3]
    chosen = ChosenFrames(chosen=(0, look.total - 1), size=(28, 56))
    assert decode_video(data, *limits[:3], chosen)[0].shape[1:] == (56, 28, 3)


def audio(data: bytes) -> None:
    """A file of audio."""
    measure_audio(data, "audio[0]", MAX_SECONDS, RATE)
    samples, rate = decode_audio(data, "audio[0]", MAX_SECONDS, RATE)
    assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, RATE)
    assert 0 < len(samples) <= (MAX_SECONDS + 1) * RATE
    assert np.isfinite(samples).all()


def _allocate(most: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if np.prod(shape) > most:
        raise InvalidRequestError("video[0]: contains more data than its header declares")
    return np.empty(shape, np.uint8)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (reference, url, local, messages, image, video, audio)
}


def run(name: str, data: bytes) -> bool:
    """Whether the target accepts ``data``; raises what is a finding."""
    try:
        TARGETS[name](data)
    except (BackendError, MemoryError):  # FFmpeg does not even try where a header asks for too much; workers tell
        return False
    return True
