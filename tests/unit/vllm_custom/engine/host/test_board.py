"""Counts that processes share: limits hold for all of them together, and turns are taken in order."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_custom.engine.host.board import DECODED_BYTES, SEQUENCES, Board, Row, make
from vllm_custom.engine.host.newest import Newest
from vllm_custom.engine.statistics import Turn


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


def test_a_disk_that_fills_up_later_ends_no_process(board: Board) -> None:
    """A file with holes would: the write that finds no room raises SIGBUS."""
    (file,) = [path.stat() for path in board.folder.iterdir() if path.is_file()]
    assert file.st_blocks * 512 >= file.st_size > 0


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


def test_what_a_front_gives_back_that_was_taken_for_lost_makes_no_place(board: Board) -> None:
    first, second = (Row(board, row, SEQUENCES) for row in (1, 2))
    assert first.take(2, 3)
    board.wipe(1)
    first.give_back(2)
    assert board.total(SEQUENCES) == 0
    assert not second.take(4, 3)


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


# Takes and gives back at random, and says so with each line that it writes: what it holds, and what all hold.
HAMMER = textwrap.dedent("""
    import random, sys
    from pathlib import Path
    from vllm_custom.engine.host.board import Board, Row
    board, number, limit = Board(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    row, chance, held, most, taken = Row(board, number, 0), random.Random(number), [], 0, 0
    print("begins", flush=True)
    for turn in range(int(sys.argv[4])):
        amount = chance.randint(1, 3)
        if chance.random() < 0.5 and row.take(amount, limit):
            held.append(amount)
            taken += 1
        elif held:
            row.give_back(held.pop(chance.randrange(len(held))))
        with board.alone() as cells:  # nobody takes meanwhile
            most = max(most, int(cells[:, 0].sum()))
    while held:
        row.give_back(held.pop())
    print(most, taken)
""")
LIMIT = 7
FOR_EVER = 10**9


def hammer(board: Path, row: int, turns: int) -> subprocess.Popen[str]:
    """One that has begun."""
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", HAMMER, str(board), str(row), str(LIMIT), str(turns)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_processes_at_once_lose_no_count_and_keep_to_the_limit(board: Board, tmp_path: Path) -> None:
    running = [hammer(tmp_path / "board", row, 5000) for row in (1, 2, 3, 4)]
    ended = [process.communicate()[0].split() for process in running]
    assert max(int(most) for most, _ in ended) == LIMIT, "reached, and never more"
    assert all(int(taken) for _, taken in ended)
    assert board.total(SEQUENCES) == 0


def test_processes_that_are_killed_take_no_place_with_them(board: Board, tmp_path: Path) -> None:
    """Whatever they were in the middle of. Each time another one comes, with a row of its own, as fronts do."""
    steady = [hammer(tmp_path / "board", row, 20_000) for row in (1, 2)]
    for row in range(3, 9):
        victim = hammer(tmp_path / "board", row, FOR_EVER)
        for _ in range(100):
            with board.alone() as cells:
                assert int(cells[:, SEQUENCES].sum()) <= LIMIT
        victim.kill()
        victim.communicate()
        board.wipe(row)
    ended = [process.communicate()[0].split() for process in steady]
    assert max(int(most) for most, _ in ended) <= LIMIT
    assert board.total(SEQUENCES) == 0
    assert Row(board, 1, SEQUENCES).take(LIMIT, LIMIT)


def test_who_was_told_last_of_the_engine_says_how_it_is(board: Board) -> None:
    first, second = Newest(board, 1), Newest(board, 2)
    assert {first.turn(0), second.turn(0), first.turn(0)} == {Turn.MINE}, "nobody was told: both say the same"
    assert first.turn(5) is Turn.MINE
    assert second.turn(4) is Turn.NOT_MINE
    assert second.turn(6) is Turn.TAKEN_OVER
    assert first.turn(7) is Turn.TAKEN_OVER, "the other has said something else, whoever was told first"
    assert second.turn(6) is Turn.NOT_MINE
    board.wipe(1)
    assert second.turn(6) is Turn.MINE, "the other has gone"
