"""A worker that has seen hostile bytes may say anything: what it says is checked before it is used."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_custom.media.decoders.job import Answer, Job
from vllm_custom.media.workers.memory import new_memory, sealed_copy, taken_over

IMAGE = Job("image", "image[0]", 1, result_bytes=300)
VIDEO = Job("video", "video[0]", 1, result_bytes=300)
AUDIO = Job("audio", "audio[0]", 1, result_bytes=300, rate=16_000)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        b'{"path": 1}',
        b'{"size": -1}',
        b'{"size": 1.5}',
        b'{"size": true}',
        b'{"size": 281474976710656}',
        b'{"shape": 3}',
        b'{"shape": [1, -1, 3]}',
        b'{"shape": [1, 1, 1, 1, 1]}',
        b'{"shape": ["1"]}',
        b'{"fps": NaN}',
        b'{"fps": Infinity}',
        b'{"fps": -1}',
        b'{"fps": "1"}',
        b'{"duration": 1e999}',
        b'{"error": "other"}',
        b'{"error": 1}',
        b'{"message": "a\\nb"}',
        b'{"message": "\\ud800"}',
        b"[" * 10_000,
        json.dumps({"message": "x" * 1001}).encode(),
    ],
)
def test_what_no_worker_says_is_no_answer(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Answer.parse(message)


@pytest.mark.slow
@given(st.binary(max_size=50) | st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists).map(repr))
def test_any_message_is_an_answer_or_refused(message: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(Answer.parse(message if isinstance(message, bytes) else message.encode()), Answer)


def test_answers_and_jobs_come_back_as_they_were() -> None:
    answer = Answer(shape=(2, 3, 4, 3), fps=29.97, duration=1 / 3, total=7, reader="pyav")
    assert Answer.parse(answer.to_bytes()) == answer
    assert Job.parse(AUDIO.to_bytes()) == AUDIO


@pytest.mark.parametrize(
    ("job", "answer"),
    [
        (IMAGE, Answer(shape=(300,))),
        (IMAGE, Answer(shape=(10, 10, 3))),
        (VIDEO, Answer(shape=(2, 10, 3), total=2, fps=1)),
        (VIDEO, Answer(shape=(2, 5, 5, 3), total=1, fps=1)),
        (VIDEO, Answer(shape=(2, 5, 5, 3), total=2)),
        (AUDIO, Answer(shape=(75,), rate=8_000)),
        (AUDIO, Answer(shape=(75,))),
        (AUDIO, Answer(shape=(5, 5, 3), rate=16_000)),
    ],
)
def test_what_no_decoder_makes_is_not_used(job: Job, answer: Answer) -> None:
    assert answer.size_for(job) == 0


def test_memory_that_the_other_side_can_still_change_is_not_taken_over() -> None:
    memory = new_memory(100)
    other = mmap.mmap(memory, 100)
    with pytest.raises(OSError, match="busy"):
        taken_over(memory, 100)
    other.close()
    mine = taken_over(memory, 100)
    with pytest.raises(PermissionError):
        mmap.mmap(memory, 100)
    os.close(memory)
    mine[:] = 1
    assert mine.sum() == 100


def test_the_size_of_memory_cannot_be_changed_by_the_other_side() -> None:
    """It would end this process, when it looks there."""
    for memory in (new_memory(100), sealed_copy(bytes(100))):
        for size in (0, 200):
            with pytest.raises(PermissionError):
                os.ftruncate(memory, size)
        os.close(memory)


def test_a_file_cannot_be_changed_once_it_is_handed_over() -> None:
    memory = sealed_copy(b"file")
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 0)
    assert os.pread(memory, 10, 0) == b"file"
    assert fcntl.fcntl(memory, 1034) == 0b1111
    os.close(memory)
