"""Which of the fronts of an engine knows best how it is: vLLM tells one of them at a time."""

from __future__ import annotations

import time

import numpy as np

from vllm_custom.engine.host.board import HEARD, SAID, Board
from vllm_custom.engine.statistics import Turn


class Newest:
    """Compares this front with the others. Thread-safe."""

    def __init__(self, board: Board, row: int) -> None:
        self._board = board
        self._row = row

    def move(self, board: Board, row: int) -> None:
        """The fronts count on another board now."""
        self._board, self._row = board, row

    def turn(self, heard_ns: int) -> Turn:
        """Whether this front is to say how the engine is. If so, that is noted as said now.

        ``heard_ns``: when it was last told, by the machine's monotonic clock; 0 for never.
        """
        board, row = self._board, self._row
        with board.alone() as cells:
            heard, said = cells[:, HEARD], cells[:, SAID]
            heard[row] = heard_ns
            if heard_ns < int(heard.max()):
                return Turn.NOT_MINE
            others = int(np.delete(said, row).max())
            # Before anybody was told, all say the same.
            mine = Turn.TAKEN_OVER if heard_ns and others > int(said[row]) else Turn.MINE
            said[row] = time.monotonic_ns()
            return mine

    def said(self) -> None:
        """What this front said is reported, maybe after what another one says that was told later: it says so again."""
        with self._board.alone() as cells:
            cells[self._row, SAID] = time.monotonic_ns()
