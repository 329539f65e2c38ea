"""Counts that processes share: limits hold for all of them together, and turns are taken in order."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_custom.engine.host.board import DECODED_BYTES, SEQUENCES, Board, Row, make


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    make(tmp_path / "board")
    made = Board(tmp_path / "board")
    yield made
    made.close()


def test_a_limit_holds_for_all_rows_together(board: Board) -> None:
    first, second = (Row(board, row, SEQUENCES) for row in (1, 2))
    assert first.take(2, 3)
    assert not second.take(2, 3)
    assert second.take(1, 3)
    assert first.total == second.total == 3
    first.give_back(2)
    assert second.take(2, 3)
    assert not second.take(1, 3)
    assert second.take(1000, 0), "no limit"


def test_columns_do_not_mix(board: Board) -> None:
    Row(board, 1, SEQUENCES).take(5, 0)
    assert Row(board, 1, DECODED_BYTES).total == 0


def test_what_a_front_had_is_free_when_its_row_is_wiped(board: Board) -> None:
    first, second = (Row(board, row, DECODED_BYTES) for row in (1, 2))
    assert first.take_in_turn(8, 10)
    assert not first.take_in_turn(8, 10)
    assert not second.take_in_turn(1, 10), "the first one waits for longer"
    board.wipe(1)
    assert second.take_in_turn(10, 10)


def test_who_waits_for_longer_is_served_first_also_where_another_needs_less(board: Board) -> None:
    holder, first, second = (Row(board, row, DECODED_BYTES) for row in (1, 2, 3))
    assert holder.take_in_turn(8, 10)
    assert not first.take_in_turn(5, 10)
    assert not second.take_in_turn(1, 10)
    holder.give_back(8)
    assert not second.take_in_turn(1, 10)
    assert first.take_in_turn(5, 10)
    assert second.take_in_turn(1, 10)


def test_who_waits_no_more_holds_nobody_up(board: Board) -> None:
    holder, first, second = (Row(board, row, DECODED_BYTES) for row in (1, 2, 3))
    assert holder.take_in_turn(8, 10)
    assert not first.take_in_turn(5, 10)
    first.stop_waiting()
    assert second.take_in_turn(2, 10)


def test_a_value_replaces_the_one_before(board: Board) -> None:
    first, second = (Row(board, row, DECODED_BYTES) for row in (1, 2))
    assert (first.set(5), second.set(7), first.set(1)) == (5, 12, 8)


def test_processes_at_once_lose_no_count(board: Board, tmp_path: Path) -> None:
    """Each counts up and down under a limit that one alone would fill."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from vllm_custom.engine.host.board import Board, Row
        row = Row(Board(Path(sys.argv[1])), int(sys.argv[2]), 0)
        most = 0
        for _ in range(3000):
            if row.take(1, 2):
                most = max(most, row.total)
                row.give_back(1)
        print(most)
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "board")]
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    running = [subprocess.Popen([*command, str(row)], stdout=subprocess.PIPE, text=True, env=path) for row in (1, 2, 3)]
    most = [int(process.communicate()[0]) for process in running]
    assert max(most) <= 2
    assert board.total(SEQUENCES) == 0
