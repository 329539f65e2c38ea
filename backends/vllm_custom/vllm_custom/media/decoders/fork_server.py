"""The process that workers are forked from: it has imported the decoders, and never sees a client's bytes.

The model's process starts it with ``main`` and tells it over a socket what to do: ``fork N`` with the socket of the
worker that is to be known as N, and ``kill N``. It ends, and all workers with it, when the model's process does.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import signal
import socket
import sys
import traceback
import wave
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vllm_custom.contract.image_formats import KNOWN_FORMATS
from vllm_custom.errors import BackendError
from vllm_custom.media.decoders import worker
from vllm_custom.media.decoders.audio import decode_audio
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.image import decode_image
from vllm_custom.media.decoders.job import ImageRules
from vllm_custom.media.decoders.video import decode_video

_POLL_SECONDS = 1.0
_MAX_COMMAND = 256  # bytes


def main(control_descriptor: int, memory_bytes: int) -> None:
    """Obey the commands on the socket until it is closed or the process that started this one has gone."""
    model = os.getppid()
    control = socket.socket(fileno=control_descriptor)
    _load_everything()
    gc.collect()
    gc.freeze()  # so that workers do not copy the pages of what is there
    server = _ForkServer(control, memory_bytes)
    # Not only the socket's end: a process that was forked from the model's may hold the other end open.
    while os.getppid() == model:
        server.reap()
        if select.select([control], [], [], _POLL_SECONDS)[0] and not server.obey():
            break
    server.end_all()


class _ForkServer:
    def __init__(self, control: socket.socket, memory_bytes: int) -> None:
        self._control = control
        self._memory_bytes = memory_bytes
        self._workers: dict[int, int] = {}  # number to process id, of those that have not been reaped

    def reap(self) -> None:
        """Forget those that have ended; until then no other process has their id."""
        for number, process in list(self._workers.items()):
            if os.waitpid(process, os.WNOHANG)[0]:
                del self._workers[number]

    def end_all(self) -> None:
        """End all workers and wait until they are gone."""
        for process in self._workers.values():
            os.kill(process, signal.SIGKILL)
        for process in self._workers.values():
            os.waitpid(process, 0)

    def obey(self) -> bool:
        """Carry out one command; False where there will be no more."""
        command, files, _, _ = socket.recv_fds(self._control, _MAX_COMMAND, 1)
        if not command:
            return False
        verb, number = command.decode().split()
        if verb == "fork":
            with socket.socket(fileno=files[0]) as channel, _reported():
                self._workers[int(number)] = self._fork(channel)
        elif int(number) in self._workers:
            os.kill(self._workers[int(number)], signal.SIGKILL)
        return True

    def _fork(self, channel: socket.socket) -> int:
        parent = os.getpid()
        process = os.fork()
        if process:
            return process
        try:
            self._control.close()
            worker.serve(channel, self._memory_bytes, parent)
        except BaseException:  # the other side sees that the socket is closed
            traceback.print_exc()
        os._exit(0)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """No process can be had now; the other side sees that the socket is closed, and this one goes on."""
    try:
        yield
    except OSError:
        traceback.print_exc()


def _load_everything() -> None:
    """Use every reader once: libraries import parts of themselves on first use, and a worker can open no file."""
    image = Image.new("RGB", (16, 16))
    for name in KNOWN_FORMATS:
        file = io.BytesIO()
        # Pillow can be built without some, and writes others in other modes, or not at all.
        with contextlib.suppress(BackendError, KeyError, OSError, ValueError):
            image.save(file, name)
            decode_image(file.getvalue(), "", 1000, rules=ImageRules(KNOWN_FORMATS))
    for deep in ("RGBA", "I;16", "P"):
        file = io.BytesIO()
        Image.new(deep, (16, 16)).save(file, "PNG")
        decode_image(file.getvalue(), "", 1000)
    decode_video(file.getvalue(), "", 1000, 10_000_000, FrameSampling(1, 1.0))
    wav = io.BytesIO()
    with wave.open(wav, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8000)
        written.writeframes(np.zeros(800, np.int16).tobytes())
    with contextlib.suppress(BackendError):  # PyAV is missing: then there is nothing to load
        decode_audio(wav.getvalue(), "", 1, 16_000)
    with contextlib.suppress(BackendError):
        decode_video(wav.getvalue(), "", 1000, 1000, FrameSampling(1))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
