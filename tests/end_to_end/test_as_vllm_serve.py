"""The same requests give the same answers through `vllm serve` and through Triton.

Both have the same engine arguments, and get the requests one at a time and in the same order, so that batches and
caches are the same too. For the latter this is the first module that uses the shared model.
"""

from __future__ import annotations

import pytest

from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.vllm_serve_cases import CASES, Case, Result, ServeAnswers, result_of, triton_body

# Two engines start within the first test's time.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def expected(serve_answers: ServeAnswers) -> dict[str, Result]:
    return serve_answers.native


@pytest.fixture(scope="module")
def got(client: Client, expected: dict[str, Result], superset: str) -> dict[str, Result]:
    results = {}
    for case in CASES:
        answer = client.generate(MODEL, **triton_body(case))
        assert answer.status == 200, (case.name, answer.body)
        results[case.name] = result_of([answer.body])
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_same(case: Case, expected: dict[str, Result], got: dict[str, Result]) -> None:
    assert got[case.name] == expected[case.name]
    assert got[case.name].logprobs == pytest.approx(expected[case.name].logprobs, abs=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stream_adds_up_to_the_same(case: Case, client: Client, got: dict[str, Result]) -> None:
    streamed = result_of(client.stream(MODEL, **triton_body(case)))
    assert streamed == got[case.name]
    assert streamed.logprobs == pytest.approx(got[case.name].logprobs, abs=1e-3)


def test_the_cases_are_worth_comparing(expected: dict[str, Result]) -> None:
    assert len(expected) == len(CASES) >= 50
    assert len({tuple(result.texts) for result in expected.values()}) > 30
    assert {reason for result in expected.values() for reason in result.finish_reasons} == {"stop", "length"}
    assert sum(len(result.texts) > 1 for result in expected.values()) >= 5
