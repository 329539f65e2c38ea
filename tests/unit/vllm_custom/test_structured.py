"""Guided decoding: every way to ask, one constraint, and refusals that say where. The compilers are vLLM's own."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine, sampling
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request.parameters import ControlParameters, parse_parameters
from vllm_custom.sampling import ConstraintCompiler, read_constraint
from vllm_custom.sampling.structured import KINDS

WEIGHTS = Path(__file__).parents[3] / "model_repository/shapes_vl/1/weights"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f>"],
}


def constraint(**parameters: Any) -> tuple[str, str, Any]:
    found = read_constraint(ControlParameters.model_validate(parameters))
    assert found is not None
    return found.source, found.kind, found.value


@pytest.mark.parametrize(
    ("parameters", "source", "kind", "value"),
    [
        ({"guided_json": SCHEMA}, "guided_json", "json", json.dumps(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, "guided_json", "json", json.dumps(SCHEMA)),
        ({"guided_regex": "a+"}, "guided_regex", "regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "guided_choice", "choice", ["a", "b"]),
        ({"guided_choice": '["a", "b"]'}, "guided_choice", "choice", ["a", "b"]),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar", "grammar", 'root ::= "a"'),
        ({"guided_json_object": True}, "guided_json_object", "json_object", True),
        ({"guided_json_object": "true"}, "guided_json_object", "json_object", True),
        ({"guided_structural_tag": TAG}, "guided_structural_tag", "structural_tag", json.dumps(TAG)),
        ({"response_format": {"type": "json_object"}}, "response_format", "json_object", True),
        ({"response_format": '{"type": "json_object"}'}, "response_format", "json_object", True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            "response_format.json_schema.schema",
            "json",
            json.dumps(SCHEMA),
        ),
        ({"response_format": TAG}, "response_format", "structural_tag", json.dumps(TAG)),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", "json", json.dumps(SCHEMA)),
        ({"structured_outputs": '{"regex": "a", "json": null}'}, "structured_outputs.regex", "regex", "a"),
        ({"guided_regex": "a", "response_format": {"type": "text"}}, "guided_regex", "regex", "a"),
        ({"guided_regex": "a", "guided_json_object": False}, "guided_regex", "regex", "a"),
    ],
)
def test_every_way_to_ask(parameters: dict[str, Any], source: str, kind: str, value: Any) -> None:
    assert constraint(**parameters) == (source, kind, value)


@pytest.mark.parametrize("parameters", [{}, {"guided_json_object": False}, {"response_format": {"type": "text"}}])
def test_no_constraint(parameters: dict[str, Any]) -> None:
    assert read_constraint(ControlParameters.model_validate(parameters)) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"guided_regex": "a", "guided_json": SCHEMA, "response_format": {"type": "json_object"}},
            "guided decoding: expected exactly one constraint, got 3: guided_json, guided_regex, response_format",
        ),
        (
            {"structured_outputs": {"json": {}, "regex": "a"}},
            "guided decoding: expected exactly one constraint, got 2: structured_outputs.json, structured_outputs.r",
        ),
        ({"structured_outputs": {}}, "structured_outputs: expected exactly one of json, regex, choice, grammar, "),
        (
            {"structured_outputs": {"schema": {}}},
            "structured_outputs: expected exactly one of json, regex, choice, grammar, json_object, structural_tag",
        ),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json: expected a JSON object (Expecting property"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json: expected a JSON object, got '[]'"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json: expected a JSON object, got 5"),
        ({"response_format": {}}, "response_format.type: expected one of text, json_object, json_schema, "),
        ({"response_format": {"type": "xml"}}, "response_format.type: expected one of text, json_object, json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema: expected a JSON schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            "response_format.json_schema.schema: expected a JSON schema as an object, got True",
        ),
    ],
)
def test_wrong_forms_are_refused_by_name(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        constraint(**parameters)
    assert str(error.value).startswith(message)


@pytest.fixture(scope="module", params=["auto", "xgrammar", "guidance"])
def compiler(vllm: None, request: pytest.FixtureRequest) -> ConstraintCompiler:
    from transformers import AutoTokenizer
    from vllm.config import StructuredOutputsConfig

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    llm = SimpleNamespace(
        model_config=SimpleNamespace(max_logprobs=20, is_diffusion=False, logits_processors=None),
        vllm_config=SimpleNamespace(
            speculative_config=None, structured_outputs_config=StructuredOutputsConfig(backend=request.param)
        ),
        get_tokenizer=lambda: tokenizer,
    )
    return ConstraintCompiler(VllmEngine(llm, ModelFacts(prefers_xgrammar=sampling.prefers_xgrammar(llm))))


def checked_by(check: Callable[[Any], None], *, xgrammar: bool = False) -> ConstraintCompiler:
    """One whose engine compiles by ``check``."""

    class Engine(VllmEngine):
        def check_structured_outputs(self, params: Any) -> None:
            check(params)

    return ConstraintCompiler(Engine(None, ModelFacts(prefers_xgrammar=xgrammar)))


async def compiled(compiler: ConstraintCompiler, **parameters: Any) -> Any:
    return await compiler.compile(read_constraint(ControlParameters.model_validate(parameters)))


@pytest.mark.parametrize(
    ("parameters", "key", "value"),
    [
        ({"guided_json": SCHEMA}, "json", json.dumps(SCHEMA)),
        ({"guided_json": {}}, "json", "{}"),
        ({"guided_regex": "[a-z]+"}, "regex", "[a-z]+"),
        ({"guided_choice": ["a", "b"]}, "choice", ["a", "b"]),
        ({"guided_json_object": True}, "json_object", True),
        ({"guided_structural_tag": TAG}, "structural_tag", json.dumps(TAG)),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "disable_any_whitespace", True),
    ],
)
async def test_what_compiles_reaches_vllm_as_it_was(
    compiler: ConstraintCompiler, parameters: dict[str, Any], key: str, value: Any
) -> None:
    for _ in range(2):  # checked, and remembered
        params = await compiled(compiler, **parameters)
        assert getattr(params, key) == value
        assert params._backend is None


async def test_nothing_asked_for_is_nothing(compiler: ConstraintCompiler) -> None:
    assert await compiled(compiler) is None


async def test_a_grammar_compiles(compiler: ConstraintCompiler) -> None:
    assert (await compiled(compiler, guided_grammar='root ::= "a" | "b"')).grammar == 'root ::= "a" | "b"'


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"guided_json": {"type": "object", "properties": {"a": {"type": "integr"}}}},
            "guided_json: cannot be compiled: at $.properties.a.type: 'integr' is not valid",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
            "response_format.json_schema.schema: cannot be compiled: at $.type: 5 is not valid",
        ),
        ({"guided_json": {"$ref": "#/$defs/x"}}, "guided_json: cannot be compiled: "),
        ({"guided_json": {"type": "string", "pattern": "(a"}}, "guided_json: cannot be compiled: "),
        ({"guided_regex": "(a"}, "guided_regex: cannot be compiled: missing ), unterminated subpattern at position 0"),
        ({"guided_regex": "[a"}, "guided_regex: cannot be compiled: unterminated character set at position 0"),
        ({"structured_outputs": {"regex": "*"}}, "structured_outputs.regex: cannot be compiled: nothing to repeat"),
        ({"guided_grammar": 'root ::= "a'}, "guided_grammar: cannot be compiled: "),
        ({"guided_grammar": ""}, "guided_grammar: cannot be compiled: "),
        ({"guided_choice": []}, "guided_choice: cannot be compiled: Choice '[]' cannot be an empty list"),
        ({"guided_structural_tag": {"structures": 5}}, "guided_structural_tag: cannot be compiled: "),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice: expected another type (Input should be"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex: expected another type (Input should be a"),
        ({"structured_outputs": {"regex": "a", "x": 1}}, "structured_outputs: expected keys among json, regex, "),
        ({"structured_outputs": {"regex": "a", "_backend": "x"}}, "structured_outputs: expected keys among json, "),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": 5}},
            "structured_outputs.whitespace_pattern: expected another type",
        ),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object: cannot be compiled: "),
    ],
)
async def test_what_cannot_be_compiled_is_refused_by_name_and_place(
    compiler: ConstraintCompiler, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as error:
        await compiled(compiler, **parameters)
    assert str(error.value).startswith(message)
    assert ".cc:" not in str(error.value)


async def test_a_grammars_place_is_told(vllm: None) -> None:
    def check(params: Any) -> None:
        try:
            raise RuntimeError("[08:33:25] /project/cpp/grammar_parser.cc:820: EBNF parser error at line 1, column 10")
        except RuntimeError as error:
            raise ValueError("Invalid grammar specification.") from error

    with pytest.raises(InvalidRequestError) as refused:
        await compiled(checked_by(check), guided_grammar="root ::= b")
    assert str(refused.value) == (
        "guided_grammar: cannot be compiled: Invalid grammar specification.: EBNF parser error at line 1, column 10"
    )


async def test_a_constraint_is_compiled_once_and_a_refused_one_each_time(vllm: None) -> None:
    seen: list[str] = []

    def check(params: Any) -> None:
        seen.append(params.regex)
        if params.regex == "bad":
            raise ValueError("no")

    compiler = checked_by(check)
    for _ in range(2):
        await compiled(compiler, guided_regex="good")
        with pytest.raises(InvalidRequestError, match="guided_regex: cannot be compiled: no"):
            await compiled(compiler, guided_regex="bad")
    assert seen == ["good", "bad", "bad"]


@pytest.mark.parametrize("xgrammar", [True, False])
async def test_lengths_become_patterns_for_xgrammar_alone(vllm: None, xgrammar: bool) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 2}}}
    made = await compiled(checked_by(lambda params: None, xgrammar=xgrammar), guided_json=schema)
    assert ("pattern" in made.json) == xgrammar
    assert ("maxLength" in made.json) != xgrammar


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from([*(f"guided_{kind}" for kind in KINDS), "response_format", "structured_outputs"])
_KEYED = st.dictionaries(st.sampled_from([*KINDS, "type", "json_schema", "whitespace_pattern"]), _VALUES, max_size=2)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_NAMES, value=_VALUES | _KEYED, as_text=st.booleans())
async def test_any_value_compiles_or_is_our_error(
    compiler: ConstraintCompiler, name: str, value: Any, as_text: bool
) -> None:
    sent = {name: json.dumps(value) if as_text else value}
    refused = ""
    try:
        _, control = parse_parameters(json.dumps(sent), None, ())
        await compiler.compile(read_constraint(control))
    except InvalidRequestError as error:
        refused = str(error)
    assert len(refused) < 2000


def test_a_schema_nested_beyond_all_measure_is_refused() -> None:
    text = '{"a":' * 100_000 + "1" + "}" * 100_000
    with pytest.raises(InvalidRequestError, match="guided_json: expected"):
        read_constraint(parse_parameters(json.dumps({"guided_json": text}), None, ())[1])
