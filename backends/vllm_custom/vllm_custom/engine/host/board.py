"""Counts that all fronts of a model share, in a file that they map: a row for each front, a column for each count.

A front writes to its own row only. What one that was killed still had is gone once its row is wiped.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROWS = 128
_COLUMNS = 16
_CELL_BYTES = 8
SEQUENCES, DECODED_BYTES, FILE_BYTES, CACHE_BYTES = range(4)
# When a front was last told how the engine is, in nanoseconds.
HEARD = 4
# When a front last said so on the metrics endpoint.
SAID = 5
# Since when a front waits for a column, in the column that is so much further.
_WAITING = 8
# In the row of the host, which counts nothing.
_HOST, _END = 0, 15


def make(path: Path) -> None:
    """A board on which nothing is counted. Raises OSError where there is no space for it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        # A write into a hole that finds the disk full would end the process (SIGBUS).
        os.posix_fallocate(descriptor, 0, ROWS * _COLUMNS * _CELL_BYTES)
    finally:
        os.close(descriptor)


class Board:
    """One process's view of it. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where there is none."""
        self.folder = path.parent
        self._descriptor = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(self._descriptor, ROWS * _COLUMNS * _CELL_BYTES)
        self._cells = np.frombuffer(self._map, np.int64).reshape(ROWS, _COLUMNS)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of it. It must not be used any more."""
        del self._cells
        self._map.close()
        os.close(self._descriptor)

    def wipe(self, row: int) -> None:
        """The front of ``row`` has gone, with all that it had."""
        with self.alone() as cells:
            cells[row] = 0

    def total(self, column: int) -> int:
        """Of all fronts."""
        return int(self._cells[:, column].sum())

    def add(self, row: int, column: int, amount: int) -> None:
        """Change a count of this process's own row, whatever the others do. It does not fall below 0.

        A front that the host takes for lost may still live: what it gives back does not count any more.
        """
        with self._lock:
            self._cells[row, column] = max(int(self._cells[row, column]) + amount, 0)

    def is_first_to_note_the_end(self) -> bool:
        """Whether no other process of this board has asked this before."""
        with self.alone() as cells:
            noted = bool(cells[_HOST, _END])
            cells[_HOST, _END] = 1
            return not noted

    @contextmanager
    def alone(self) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
        """The cells, which no other thread or process has meanwhile. The kernel takes the lock back from the dead."""
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield self._cells
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class Row:
    """One front's count of one thing. Thread-safe."""

    def __init__(self, board: Board, row: int, column: int) -> None:
        self._board = board
        self._row = row
        self._column = column
        self._place = threading.Lock()  # board and row belong together

    @property
    def total(self) -> int:
        """Of all fronts."""
        return self._board.total(self._column)

    def move(self, board: Board, row: int) -> None:
        """Count on another board from now on, what is counted here included."""
        with self._place:
            with self._board.alone() as cells:
                amount = int(cells[self._row, self._column])
            board.add(row, self._column, amount)
            self._board, self._row = board, row

    def take(self, amount: int, limit: int) -> bool:
        """Count ``amount``, if all fronts together then have at most ``limit``; 0 is no limit."""
        if not limit:
            self._add(amount)
            return True
        with self._place, self._board.alone() as cells:
            column = cells[:, self._column]
            if int(column.sum()) + amount > limit:
                return False
            column[self._row] += amount
            return True

    def take_in_turn(self, amount: int, limit: int) -> bool:
        """The same, but not before a front that waits for longer. One that gets nothing waits from then on."""
        with self._place, self._board.alone() as cells:
            column, waiting = cells[:, self._column], cells[:, self._column + _WAITING]
            since = int(waiting[self._row])
            earlier = waiting[(waiting > 0) & (waiting < since)] if since else waiting[waiting > 0]
            if earlier.size or int(column.sum()) + amount > limit:
                waiting[self._row] = since or time.monotonic_ns()
                return False
            waiting[self._row] = 0
            column[self._row] += amount
            return True

    def stop_waiting(self) -> None:
        """No request waits here any more."""
        with self._place, self._board.alone() as cells:
            cells[self._row, self._column + _WAITING] = 0

    def give_back(self, amount: int) -> None:
        """The counterpart of ``take``."""
        self._add(-amount)

    def set(self, amount: int) -> int:
        """Count ``amount`` in place of what was counted here. The total of all fronts."""
        with self._place, self._board.alone() as cells:
            cells[self._row, self._column] = amount
            return int(cells[:, self._column].sum())

    def _add(self, amount: int) -> None:
        with self._place:
            self._board.add(self._row, self._column, amount)
