"""A short part of the fuzzing of requests; `python -m tests.fuzz.request_path` is the long one."""

import pytest

from tests.fuzz import request_path


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_generated_request_has_exactly_one_final_response(seed: int) -> None:
    report = request_path.run(1500, seed, per_model=1500)
    assert report.without_one_final == []
    assert sum(report.outcomes.values()) == 1500
    assert report.outcomes["answered"] > 100, report.lines()
    assert report.outcomes["INVALID_ARG"] > 100, report.lines()
