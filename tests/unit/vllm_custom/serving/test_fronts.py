"""Two processes that serve one model: its limits are those of both together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import fakes
from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from tests.support.service_harness import Model
from vllm_custom.engine.host import Share
from vllm_custom.engine.host.board import Board, make
from vllm_custom.errors import ConfigError


async def _hang(*_: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    make(tmp_path / "board")
    board = Board(tmp_path / "board")
    yield board
    board.close()


@pytest.fixture
def fronts(board: Board, tmp_path: Path) -> Iterator[list[Model]]:
    with ExitStack() as stack:
        models = []
        for client in (1, 2):
            connection = SimpleNamespace(folder=tmp_path, client=client, leave=lambda: None)
            share = Share(connection, 2)  # type: ignore[arg-type]
            stack.callback(share.close)
            engine = FakeEngine(TEXT_ONLY, before_token=_hang)
            models.append(stack.enter_context(Model(engine, share=share, MAX_INFLIGHT_REQUESTS="2")))
        yield models


def test_requests_to_both_count_for_one_limit(fronts: list[Model]) -> None:
    held = [front.submit() for front in fronts]
    for front in fronts:
        assert front.submit().wait().error.code() == fakes.TritonError.UNAVAILABLE
    held[0].cancelled = True
    held[0].wait()
    fronts[1].engine.before_token = None
    assert fronts[1].submit().wait().error is None
    held[1].cancelled = True
    held[1].wait()
    for front in fronts:
        front.settle()


def test_an_engine_that_came_from_elsewhere_is_not_shared(tmp_path: Path) -> None:
    connection = SimpleNamespace(folder=tmp_path, client=0, leave=lambda: None)
    with pytest.raises(ConfigError, match="SHARE_ENGINE: expected false"):
        Share(connection, 2)  # type: ignore[arg-type]


def test_a_process_that_is_gone_holds_no_place(fronts: list[Model], board: Board) -> None:
    held = [fronts[0].submit() for _ in range(2)]
    assert fronts[1].submit().wait().error.code() == fakes.TritonError.UNAVAILABLE
    board.wipe(1)
    fronts[1].engine.before_token = None
    assert fronts[1].submit().wait().error is None
    for sender in held:
        sender.cancelled = True
        sender.wait()
