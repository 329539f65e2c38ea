"""A request's id, its arrival and its trace."""

from __future__ import annotations

import time

import pytest

from vllm_custom.request import context
from vllm_custom.request.context import RequestContext, random_id


@pytest.mark.parametrize(
    ("sent", "request_id"),
    [("mine-7", "mine-7"), ("", "random"), ("a\nb\x1b", "a?b?"), ("x" * 5000, "x" * 128), ("图", "图")],
)
def test_a_request_has_the_clients_id_or_a_random_one(
    sent: str, request_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "random_id", lambda: "random")
    assert RequestContext.of(sent).request_id == request_id


def test_random_ids_differ() -> None:
    assert len({random_id() for _ in range(100)}) == 100


def test_a_trace_changes_neither_the_id_nor_the_time_of_arrival() -> None:
    before = time.monotonic()
    arrived = RequestContext.of("mine")
    assert before <= arrived.arrived_at <= time.monotonic()
    traced = arrived.traced({"traceparent": "00-1-2-01"})
    assert traced == RequestContext("mine", arrived.arrived_at, {"traceparent": "00-1-2-01"})
    assert arrived.trace_headers is None
