"""The limit on sequences under way, and what each request holds of it."""

from __future__ import annotations

import contextlib
import threading

import pytest

from vllm_custom.errors import InvalidRequestError, UnavailableError
from vllm_custom.serving.admission import Admission, Ticket

FULL = "too many requests: 2 are under way and MAX_INFLIGHT_REQUESTS is 2; try again later"


def test_requests_beyond_the_limit_are_refused_and_not_counted() -> None:
    admission = Admission(2)
    first, _ = entered(admission), entered(admission)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=FULL):
            admission.enter()
    assert admission.inside == 2
    first.leave()
    entered(admission)
    assert admission.inside == 2


def test_what_the_engine_has_nothing_to_do_with_takes_no_place() -> None:
    admission = Admission(1)
    for _ in range(3):
        admission.enter().grow(0)
    assert admission.inside == 0
    entered(admission)


def test_zero_is_no_limit() -> None:
    admission = Admission(0)
    tickets = [entered(admission) for _ in range(1000)]
    tickets[0].grow(10**6)
    assert admission.inside == 10**6 + 999


def test_a_request_counts_as_often_as_the_sequences_that_it_asks_for() -> None:
    admission = Admission(4)
    ticket = admission.enter()
    ticket.grow(1)
    assert admission.inside == 1
    ticket.grow(3)
    assert admission.inside == 3
    ticket.grow(2)  # no place is given back before the end
    assert admission.inside == 3
    entered(admission)
    with pytest.raises(UnavailableError, match="too many requests: 4 are under way and MAX_INFLIGHT_REQUESTS is 4"):
        admission.enter()
    ticket.leave()
    assert admission.inside == 1


def test_a_request_that_cannot_grow_keeps_its_one_place() -> None:
    admission = Admission(2)
    first, second = entered(admission), entered(admission)
    with pytest.raises(UnavailableError, match=FULL):
        first.grow(2)
    assert admission.inside == 2
    second.leave()
    first.grow(2)
    assert admission.inside == 2
    first.leave()
    assert admission.inside == 0


def test_more_sequences_than_there_may_ever_be_are_the_clients_mistake() -> None:
    """Not UNAVAILABLE: to try again later would never help."""
    admission = Admission(2)
    message = r"^n: expected at most 2 sequences in one request, .* \(MAX_INFLIGHT_REQUESTS of this model\), got 3"
    with pytest.raises(InvalidRequestError, match=message):
        admission.enter().grow(3)
    assert admission.inside == 0


def test_leaving_twice_gives_back_once() -> None:
    admission = Admission(3)
    left, _ = entered(admission), entered(admission)
    for _ in range(2):
        left.leave()
    assert admission.inside == 1
    left.grow(3)  # it has its answer already, and holds nothing
    assert admission.inside == 1


def test_places_are_neither_lost_nor_given_twice_by_threads() -> None:
    admission = Admission(8)
    most: list[int] = []

    def work() -> None:
        for round_ in range(300):
            try:
                ticket = entered(admission)
            except UnavailableError:
                continue
            grow(ticket, 1 + round_ % 3)
            most.append(admission.inside)
            ticket.leave()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission.inside == 0
    assert 1 <= max(most) <= 8


def entered(admission: Admission) -> Ticket:
    ticket = admission.enter()
    ticket.grow(1)
    return ticket


def grow(ticket: Ticket, sequences: int) -> None:
    with contextlib.suppress(UnavailableError):
        ticket.grow(sequences)
