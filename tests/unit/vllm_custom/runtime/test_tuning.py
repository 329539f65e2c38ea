"""What is set up around the engine: event loops, and what the garbage collector looks at."""

import asyncio
import collections
import gc
import sys
import weakref

import pytest
import uvloop

from vllm_custom.runtime import tuning


def kind_of_a_new_loop() -> type:
    async def kind() -> type:
        return type(asyncio.get_running_loop())

    return asyncio.run(kind())


def test_loops_made_meanwhile_are_fast_and_later_ones_are_as_before() -> None:
    before = kind_of_a_new_loop()
    with tuning.fast_event_loops():
        assert kind_of_a_new_loop() is uvloop.Loop
    assert kind_of_a_new_loop() is before


def test_the_policy_comes_back_after_a_failure() -> None:
    before = asyncio.get_event_loop_policy()
    with pytest.raises(RuntimeError, match="start failed"), tuning.fast_event_loops():
        raise RuntimeError("the start failed")
    assert asyncio.get_event_loop_policy() is before


def test_without_uvloop_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    before = asyncio.get_event_loop_policy()
    with tuning.fast_event_loops():
        assert asyncio.get_event_loop_policy() is before


def test_a_busy_thread_gives_way_sooner() -> None:
    before = sys.getswitchinterval()
    try:
        tuning.set_switch_interval()
        assert sys.getswitchinterval() < before
    finally:
        sys.setswitchinterval(before)


def test_collections_are_back_after_a_start_and_after_one_that_failed() -> None:
    assert gc.isenabled()
    with tuning.without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="start failed"), tuning.without_collections():
        raise RuntimeError("the start failed")
    assert gc.isenabled()


def test_a_block_within_a_block_does_not_end_it() -> None:
    with tuning.without_collections():
        with tuning.without_collections():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


class Node:
    """Part of a cycle, which only the garbage collector frees."""

    def __init__(self) -> None:
        self.myself = self


def test_what_start_up_left_is_spared_until_the_end() -> None:
    node = Node()
    gone = weakref.ref(node)
    tuning.freeze_gc_heap()
    try:
        assert gc.get_freeze_count() > 0
        del node
        gc.collect()
        assert gone() is not None
        tuning.collect_before_exit()
        assert gone() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_garbage_is_not_put_off_by_what_start_up_left() -> None:
    """Cancelled requests leave cycles, which outlived young collections until there were tens of megabytes of them."""
    left = [[index] for index in range(1_000_000)]
    tuning.freeze_gc_heap()
    try:
        before = gc.get_stats()[2]["collections"]
        lived: collections.deque[Node] = collections.deque(maxlen=20_000)
        for _ in range(200_000):
            lived.append(Node())
        assert gc.get_stats()[2]["collections"] > before
    finally:
        gc.unfreeze()
    assert left
