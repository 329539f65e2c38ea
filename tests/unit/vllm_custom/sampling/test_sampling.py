"""SamplingParams from what a client sent. Types and limits are the installed vLLM's own."""

import contextvars
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fakes
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine
from vllm_custom.engine.vllm import sampling as vllm_sampling
from vllm_custom.errors import InvalidRequestError, RefusedInVllmError
from vllm_custom.sampling import PromptLogprobs, SamplingBuilder, check_prompt_logprobs

pytestmark = pytest.mark.usefixtures("vllm")


def on(llm: fakes.Engine) -> SamplingBuilder:
    """The builder of the model that ``llm`` serves."""
    facts = ModelFacts(
        default_sampling=vllm_sampling.default_sampling(llm),
        max_tokens_limit=vllm_sampling.max_tokens_limit(llm),
        sampling_fields=vllm_sampling.sampling_fields(),
    )
    return SamplingBuilder(VllmEngine(llm, facts))


@pytest.fixture(scope="module")
def builder(vllm: None) -> SamplingBuilder:
    return on(fakes.Engine())


def build(
    builder: SamplingBuilder, structured: Any = None, *, stream: bool = False, templated: bool = False, **given: Any
) -> Any:
    return builder.build(given, structured, stream=stream, templated=templated)


def test_names_are_vllms_public_fields(builder: SamplingBuilder) -> None:
    assert {"temperature", "max_tokens", "top_p", "stop", "seed", "n", "logprobs", "logit_bias"} <= set(builder.names)
    assert not {"structured_outputs", "output_kind", "skip_clone"} & set(builder.names)
    assert not any(name.startswith("_") for name in builder.names)


@pytest.mark.parametrize(("stream", "kind"), [(True, "DELTA"), (False, "FINAL_ONLY")])
def test_outputs_are_deltas_in_streams_and_one_otherwise(builder: SamplingBuilder, stream: bool, kind: str) -> None:
    assert build(builder, stream=stream).output_kind.name == kind


@pytest.mark.parametrize(
    ("generation_config", "templated", "given_", "expected"),
    [
        ({}, False, {}, {"max_tokens": 16, "temperature": 1.0}),
        ({}, True, {}, {"max_tokens": None, "temperature": 1.0}),
        ({"temperature": 0.6, "top_k": 20}, False, {}, {"temperature": 0.6, "top_k": 20, "max_tokens": 16}),
        ({"temperature": 0.6}, True, {"temperature": 0}, {"temperature": 0.0, "max_tokens": None}),
        ({"max_tokens": 99}, True, {}, {"max_tokens": 99}),
        ({"max_tokens": 99}, False, {}, {"max_tokens": 16}),
        ({"max_tokens": 99}, True, {"max_tokens": 5}, {"max_tokens": 5}),
        ({}, False, {"max_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_defaults_are_those_of_vllm_serve(
    generation_config: dict[str, Any], templated: bool, given_: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = build(on(fakes.Engine(generation_config)), templated=templated, **given_)
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("where", "templated", "given_", "max_tokens"),
    [
        ("auto", False, {"max_tokens": 500}, 500),
        ("a folder", False, {"max_tokens": 500}, 99),
        ("a folder", False, {"max_tokens": 5}, 5),
        ("a folder", False, {}, 16),
        ("a folder", True, {}, 99),
        ("an override", False, {"max_tokens": 500}, 50),
        ("an override", True, {"max_tokens": "null"}, 50),
    ],
)
def test_max_new_tokens_that_the_operator_set_is_a_limit(
    where: str, templated: bool, given_: dict[str, Any], max_tokens: int
) -> None:
    llm = fakes.Engine({"max_tokens": 99})
    if where == "an override":
        llm.model_config.override_generation_config = {"max_new_tokens": 50}
    else:
        llm.model_config.generation_config = where
    assert build(on(llm), templated=templated, **given_).max_tokens == max_tokens


def test_biases_are_brought_to_the_range_of_vllm_serve(builder: SamplingBuilder) -> None:
    made = build(builder, logit_bias='{"5": 1000, "6": -1000, "7": 2.5}')
    assert made.logit_bias == {5: 100.0, 6: -100.0, 7: 2.5}


@pytest.mark.parametrize(
    ("name", "sent", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", 0, 0.0),
        ("max_tokens", "7", 7),
        ("max_tokens", "null", None),
        ("seed", "42", 42),
        ("n", "2", 2),
        ("ignore_eos", "true", True),
        ("skip_special_tokens", "False", False),
        ("stop", "END", ["END"]),
        ("stop", ["a", "b"], ["a", "b"]),
        ("stop", '["a", "\\n"]', ["a", "\n"]),
        ("stop", "null", ["null"]),
        ("stop", "7", ["7"]),
        ("stop", "[", ["["]),
        ("stop", "[1]", ["[1]"]),
        ("stop_token_ids", "[1, 2]", [1, 2]),
        ("bad_words", '["no"]', ["no"]),
        ("allowed_token_ids", [3, 4], [3, 4]),
        ("logit_bias", '{"5": 1.5}', {5: 1.5}),
        ("logit_bias", {"5": "-1"}, {5: -1.0}),
        ("logprobs", "3", 3),
    ],
)
def test_strings_are_read_as_what_the_field_takes(builder: SamplingBuilder, name: str, sent: Any, value: Any) -> None:
    assert getattr(build(builder, **{name: sent}), name) == value


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", "inf"),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", "NaN"),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("max_tokens", 1.5),
        ("n", 0),
        ("n", 10**6),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", "9" * 5000),
        ("stop", {"a": 1}),
        ("stop", [1]),
        ("stop", ""),
        ("stop_token_ids", '["a"]'),
        ("stop_token_ids", "7"),
        ("logit_bias", '{"5": NaN}'),
        ("logit_bias", "[" * 100_000),
        ("ignore_eos", "maybe"),
    ],
)
def test_a_bad_value_is_refused_by_name(builder: SamplingBuilder, name: str, sent: Any) -> None:
    with pytest.raises(InvalidRequestError) as error:
        build(builder, **{name: sent})
    assert str(error.value).startswith(name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("asked", "tokens", "fits"), [(None, 10**9, True), (1, 50, True), (1, 51, False), (-1, 1, False)]
)
def test_log_probabilities_of_a_long_prompt_are_bounded(
    builder: SamplingBuilder, asked: int | None, tokens: int, fits: bool
) -> None:
    """vLLM makes an object of each on the event loop."""
    sampling = build(builder, prompt_logprobs=asked)
    _, error = fakes.outcome(lambda: check_prompt_logprobs(sampling, tokens, 100))
    assert (error is None) is fits
    assert fits or "MAX_PROMPT_LOGPROBS" in str(error)


def test_prompt_logprobs_of_all_prompts_of_a_request_count_together(builder: SamplingBuilder) -> None:
    """A call of /v1/completions has up to 1,024 prompts, each of which may be as long as the context."""
    sampling, counted = build(builder, prompt_logprobs=1), PromptLogprobs(100)

    def ask(*prompts: int) -> None:
        PromptLogprobs.count_together()
        for tokens in prompts:
            counted.check(sampling, tokens)

    for _ in range(2):
        contextvars.copy_context().run(ask, 25, 25)
    with pytest.raises(RefusedInVllmError, match=r"^prompt_logprobs: .*MAX_PROMPT_LOGPROBS.* each of 1 after"):
        contextvars.copy_context().run(ask, 25, 25, 1)
    for _ in range(3):
        counted.check(sampling, 50)


def test_refusals_of_vllm_have_an_end(builder: SamplingBuilder) -> None:
    """vLLM repeats every wrong token id."""
    with pytest.raises(InvalidRequestError) as error:
        build(builder, bad_words=["x"] * 128 + [""])
    assert len(str(error.value)) < 1100


def test_structured_outputs_are_handed_on(builder: SamplingBuilder) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    structured = StructuredOutputsParams(regex="a+")
    assert build(builder, structured).structured_outputs is structured
    assert build(builder).structured_outputs is None


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_gives_parameters_or_our_error(builder: SamplingBuilder, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(builder.names))
    value = data.draw(_VALUES | _VALUES.map(json.dumps))
    _, error = fakes.outcome(lambda: build(builder, **{name: value}))
    assert error is None or error.triton_code in ("INVALID_ARG", "UNSUPPORTED")


@pytest.mark.parametrize("value", ["nan", "-inf", math.nan, math.inf])
@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty"])
def test_numbers_that_are_not_finite_are_refused(builder: SamplingBuilder, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: .*finite number"):
        build(builder, **{field: value})
