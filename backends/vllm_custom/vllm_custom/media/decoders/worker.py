"""A worker process: it takes one job after the other from a socket, and puts what it decodes into the memory given."""

from __future__ import annotations

import math
import mmap
import os
import socket

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom.errors import InvalidRequestError, MediaLimitError, UnsupportedError
from vllm_custom.media.decoders.animation import Allocate
from vllm_custom.media.decoders.audio import decode_audio, measure_audio
from vllm_custom.media.decoders.confinement import confine, limit_cpu
from vllm_custom.media.decoders.frame_list import is_frame_list
from vllm_custom.media.decoders.frames import ChosenFrames, FrameSampling
from vllm_custom.media.decoders.image import decode_image, measure_image, set_pixel_limit, shown_size
from vllm_custom.media.decoders.job import CHANNELS, IMAGE_BYTES, MAX_MESSAGE, MAX_TEXT, Answer, Job
from vllm_custom.media.decoders.listed_frames import LISTED_RATE, READER, decode_frame_list, look_at_frame_list
from vllm_custom.media.decoders.video import decode_video, look_at_video, measure_video

_STRIPE_BYTES = 1 << 20


def serve(channel: socket.socket, memory_bytes: int, parent: int) -> None:
    """Confine this process, say what is in force, and work until the socket is closed."""
    quiet = os.open(os.devnull, os.O_RDWR)
    confinement = confine(memory_bytes, parent)
    for standard in (0, 1, 2):  # libraries write about damaged files
        os.dup2(quiet, standard)
    os.close(quiet)
    channel.send(", ".join(confinement).encode())
    while True:
        message, files, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 2)
        if not message:
            return
        try:
            channel.send(work(Job.parse(message), files).to_bytes())
        finally:
            for file in files:
                os.close(file)


def work(job: Job, files: list[int]) -> Answer:
    """The answer to one job; ``files`` are the item, and the memory for the result where one is wanted."""
    limit_cpu(job.cpu_seconds)
    set_pixel_limit(job.max_pixels)
    try:
        data = os.pread(files[0], job.size, 0)
        if job.result_bytes:
            return _decode(job, data, files[1])
        return _look(job, data) if job.exact else Answer(size=_measure(job, data))
    except MemoryError:
        return Answer(error="memory")
    except MediaLimitError as error:
        return Answer(error="limit", message=_text(error), rule=error.rule)
    except UnsupportedError as error:
        return Answer(error="unsupported", message=_text(error))
    except InvalidRequestError as error:
        return Answer(error="invalid", message=_text(error))


def _text(error: Exception) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(error)[:MAX_TEXT])


def _measure(job: Job, data: bytes) -> int:
    if job.modality == "image":
        return measure_image(data, job.field, job.max_pixels, job.images)
    if job.modality == "audio":
        return measure_audio(data, job.field, job.max_seconds, job.rate)
    sampling = FrameSampling(job.num_frames, job.fps)
    return measure_video(data, job.field, job.max_pixels, job.max_decode_pixels, sampling, job.images)


def _look(job: Job, data: bytes) -> Answer:
    """What the item is like as it is shown, and how many bytes it has so."""
    if job.modality == "image":
        width, height = shown_size(data, job.field, job.max_pixels, job.images)
        return Answer(size=width * height * IMAGE_BYTES, shape=(height, width, IMAGE_BYTES))
    listed = is_frame_list(data)
    if listed:
        look = look_at_frame_list(data, job.field, job.max_pixels, job.images)
    else:
        look = look_at_video(data, job.field, job.max_pixels, job.max_decode_pixels)
    shape = (look.total, look.height, look.width, CHANNELS)
    return Answer(size=math.prod(shape), shape=shape, fps=look.rate, total=look.total, reader=READER if listed else "")


def _decode(job: Job, data: bytes, result: int) -> Answer:
    if job.modality == "image":
        return _put_image(job, decode_image(data, job.field, job.max_pixels, job.sizes, job.images), result)
    try:
        memory = mmap.mmap(result, job.result_bytes)
    except OSError as error:
        raise MemoryError from error
    answer = _decode_into(job, data, _allocator(job, memory))
    memory.close()  # the other side seals it, which fails while a process can still write to it
    return answer


def _decode_into(job: Job, data: bytes, allocate: Allocate) -> Answer:
    if job.modality == "audio":
        samples, rate = decode_audio(data, job.field, job.max_seconds, job.rate)
        allocate((samples.nbytes,))[:] = samples.view(np.uint8)
        return Answer(shape=samples.shape, rate=rate)
    if job.indices and is_frame_list(data):
        frames = decode_frame_list(data, job.field, job.max_pixels, job.sizes, job.indices, allocate, job.images)
        return Answer(shape=frames.shape, fps=LISTED_RATE, total=len(frames), reader=READER)
    sampling = FrameSampling(job.num_frames, job.fps)
    if job.indices:
        sampling = ChosenFrames(chosen=tuple(job.indices), size=(job.sizes[-1][0], job.sizes[-1][1]))
    frames, metadata = decode_video(
        data, job.field, job.max_pixels, job.max_decode_pixels, sampling, allocate, job.images
    )
    return Answer(
        shape=frames.shape,
        fps=metadata["fps"],
        duration=metadata["duration"],
        total=metadata["total_num_frames"],
        reader=metadata["video_backend"],
    )


def _allocator(job: Job, memory: mmap.mmap) -> Allocate:
    def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        if int(np.prod(shape)) > job.result_bytes:
            raise _larger_than_measured(job)
        return np.ndarray(shape, np.uint8, memory)

    return allocate


def _put_image(job: Job, image: Image.Image, result: int) -> Answer:
    """As Pillow has the pixels itself, so that the other side can make an image of the memory."""
    width, height = image.size
    row_bytes = width * IMAGE_BYTES
    if height * row_bytes > job.result_bytes:
        raise _larger_than_measured(job)
    rows = max(1, _STRIPE_BYTES // row_bytes)
    for top in range(0, height, rows):
        stripe = image.crop((0, top, width, min(top + rows, height)))
        os.pwrite(result, stripe.tobytes("raw", "RGBX"), top * row_bytes)
    return Answer(shape=(height, width, IMAGE_BYTES))


def _larger_than_measured(job: Job) -> InvalidRequestError:
    return InvalidRequestError(f"{job.field}: contains more data than its header declares")
