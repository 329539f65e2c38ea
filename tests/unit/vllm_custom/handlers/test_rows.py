"""What holds for a request as a whole, of all its rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.support.fake_engine import FakeEngine
from vllm_custom.contract.settings import Settings
from vllm_custom.handlers import Incoming, Parsed, RowReader
from vllm_custom.handlers.base import shortest
from vllm_custom.request import ClientRules


def parsed(rows: int = 1, timeout_us: int = 0, **parameters: Any) -> Parsed:
    config = {"name": "model", "max_batch_size": 8}
    reader = RowReader(FakeEngine(), Settings.from_model_config(config), ClientRules())
    tensors = {"text_input": np.array([[b"hi"]] * rows, np.object_)}
    incoming = Incoming(tensors, parameters=json.dumps(parameters), timeout_us=timeout_us)
    return reader.parsed(incoming, reader.read(incoming))


@pytest.mark.parametrize(("timeouts", "expected"), [((), 0), ((0,), 0), ((0, 5), 5), ((9, 5, 0), 5), ((-1, 3), 3)])
def test_the_shortest_timeout_counts_and_zero_is_none(timeouts: tuple[int, ...], expected: int) -> None:
    assert shortest(*timeouts) == expected


@pytest.mark.parametrize(("of_triton", "sent", "expected"), [(0, 0, 0), (7, 0, 7), (0, 5, 5), (7, 5, 5), (3, 5, 3)])
def test_the_timeout_of_the_kserve_request_and_of_its_parameters(of_triton: int, sent: int, expected: int) -> None:
    assert parsed(2, of_triton, timeout=sent).timeout_us == expected


@pytest.mark.parametrize(
    ("rows", "n", "expected"),
    [
        (1, 1, 1),
        (1, 3, 3),
        (2, 3, 6),
        (2, "3", 6),
        (3, 0, 3),
        (2, -5, 2),
        (2, "many", 2),
        (2, [3], 2),
    ],
)
def test_a_request_counts_as_n_sequences_of_each_row(rows: int, n: Any, expected: int) -> None:
    """What is no number is refused later, by name; it counts as one until then."""
    assert parsed(rows, n=n).sequences == expected
