"""The log of the model's process: cheap for who writes to it, bounded, and without any way to fail."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_custom.observability import QueuedLog


class Logger:
    """``pb_utils.Logger``: takes what UTF-8 can hold, as the binding does; ``gate`` makes it slow."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def _take(self, level: str, message: str) -> None:
        self.entered.set()
        assert self.gate.wait(60)
        message.encode()
        self.threads.add(threading.get_ident())
        self.lines.append((level, message))

    def log_verbose(self, message: str) -> None:
        self._take("verbose", message)

    def log_info(self, message: str) -> None:
        self._take("info", message)

    def log_warn(self, message: str) -> None:
        self._take("warn", message)

    def log_error(self, message: str) -> None:
        self._take("error", message)


@pytest.fixture
def logger() -> Iterator[Logger]:
    made = Logger()
    yield made
    made.gate.set()


def test_lines_keep_level_and_order_and_are_written_by_another_thread(logger: Logger) -> None:
    log = QueuedLog(logger)
    log.log_verbose("a")
    log.log_info("b")
    log.log_warn("c")
    log.log_error("d")
    log.close()
    assert logger.lines == [("verbose", "a"), ("info", "b"), ("warn", "c"), ("error", "d")]
    assert threading.get_ident() not in logger.threads


def test_a_flood_is_dropped_and_counted(logger: Logger) -> None:
    """Each bad request cost the event loop a look at the source of the caller and an exchange with the server."""
    logger.gate.clear()
    log = QueuedLog(logger, max_lines=10)
    log.log_info("first")
    assert logger.entered.wait(60)  # the queue is empty, the thread is busy
    for number in range(100):
        log.log_info(str(number))
    assert log.dropped == 90
    logger.gate.set()
    log.close()
    assert [text for _, text in logger.lines[:-1]] == ["first", *map(str, range(10))]
    assert logger.lines[-1] == ("warn", "[vllm_custom] 90 log lines were dropped: there were too many at a time")


def test_drops_are_told_once(logger: Logger) -> None:
    logger.gate.clear()
    log = QueuedLog(logger, max_lines=1)
    log.log_info("first")
    assert logger.entered.wait(60)
    for _ in range(3):
        log.log_info("more")
    logger.gate.set()
    log.close()
    assert sum("dropped" in text for _, text in logger.lines) == 1


@given(st.text(st.characters() | st.characters(categories=["Cs"])) | st.none() | st.integers())
def test_any_message_is_written(message: Any) -> None:
    """A lone surrogate in a message made the logger raise inside the handler that would have answered."""
    logger = Logger()
    log = QueuedLog(logger)
    log.log_error(message)
    log.close()
    assert len(logger.lines) == 1


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_long_and_strange_messages_are_no_problem(logger: Logger) -> None:
    log = QueuedLog(logger)
    log.log_error("x" * 50_000_000)
    log.log_error(UnprintableError())  # type: ignore[arg-type]
    log.close()
    assert len(logger.lines[0][1]) == 20_000
    assert logger.lines[0][1].endswith("... (50000000 characters)")
    assert logger.lines[1] == ("error", "UnprintableError")


def test_a_logger_that_fails_fails_nobody() -> None:
    log = QueuedLog(object())
    log.log_error("a")
    log.close()
    log.log_error("after the end")


def test_lines_after_the_end_are_written_at_once(logger: Logger) -> None:
    log = QueuedLog(logger)
    log.close()
    log.log_info("late")
    assert logger.lines == [("info", "late")]
