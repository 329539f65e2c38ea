"""Guided decoding: every way to ask, one constraint, and refusals that say where. The compilers are vLLM's own."""

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.installer.paths import CHECKOUT
from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine
from vllm_custom.engine.vllm.constraints.client import (
    DeadlyConstraintError,
    RefusedConstraintError,
    SlowConstraintError,
    UnlimitedCheck,
)
from vllm_custom.engine.vllm.constraints.grammars import GrammarCompilers, Verdict, compiler_facts
from vllm_custom.errors import InvalidRequestError, RefusedInVllmError
from vllm_custom.request.parameters import parse_parameters
from vllm_custom.structured_outputs import KINDS, ConstraintCompiler, read_constraint

pytestmark = pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated")  # vLLM gives it to xgrammar

WEIGHTS = CHECKOUT / "model_repository/shapes_vl/1/weights"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f>"],
}


def constraint(**parameters: Any) -> tuple[str, str, Any]:
    found = read_constraint(RequestParameters.model_validate(parameters))
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
        ({"guided_decoding": {"choice": ["a"]}}, "guided_decoding.choice", "choice", ["a"]),
        ({"guided_decoding": '{"regex": "a", "backend": null}'}, "guided_decoding.regex", "regex", "a"),
        ({"guided_decoding": {"regex": "a", "disable_fallback": False}}, "guided_decoding.regex", "regex", "a"),
        ({"guided_regex": "a", "response_format": {"type": "text"}}, "guided_regex", "regex", "a"),
        ({"guided_regex": "a", "guided_json_object": False}, "guided_regex", "regex", "a"),
    ],
)
def test_every_way_to_ask(parameters: dict[str, Any], source: str, kind: str, value: Any) -> None:
    assert constraint(**parameters) == (source, kind, value)


@pytest.mark.parametrize("parameters", [{}, {"guided_json_object": False}, {"response_format": {"type": "text"}}])
def test_no_constraint(parameters: dict[str, Any]) -> None:
    assert read_constraint(RequestParameters.model_validate(parameters)) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"guided_regex": "a", "guided_json": SCHEMA, "response_format": {"type": "json_object"}},
            "structured_outputs: expected exactly one constraint, got 3: guided_json, guided_regex, response_format",
        ),
        (
            {"structured_outputs": {"json": {}, "regex": "a"}},
            "structured_outputs: expected exactly one constraint, got 2: structured_outputs.json, structured_outputs.r",
        ),
        ({"structured_outputs": {}}, "structured_outputs: expected exactly one of json, regex, choice, grammar, "),
        (
            {"structured_outputs": {"schema": {}}},
            "structured_outputs: expected exactly one of json, regex, choice, grammar, json_object, structural_tag",
        ),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json: expected a JSON object (Expecting property"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json: expected a JSON object, got '[]'"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json: expected a JSON object, got 5"),
        ({"guided_decoding": {"backend": "xgrammar"}}, "guided_decoding: expected exactly one of json, regex, choice"),
        ({"guided_decoding": {"regex": "a", "backend": "outlines"}}, "guided_decoding.backend: may not be set by req"),
        (
            {"guided_decoding": {"regex": "a"}, "structured_outputs": {"choice": ["a"]}},
            "structured_outputs: expected exactly one constraint, got 2: guided_decoding.regex, structured_outputs.ch",
        ),
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
    engine = SimpleNamespace(
        model_config=SimpleNamespace(get_vocab_size=lambda: len(tokenizer)),
        vllm_config=SimpleNamespace(structured_outputs_config=StructuredOutputsConfig(backend=request.param)),
        renderer=SimpleNamespace(tokenizer=tokenizer),
    )
    compilers = GrammarCompilers(compiler_facts(engine))
    return constraint_compiler(UnlimitedCheck(compilers.compile), xgrammar=request.param != "guidance")


async def compiled(compiler: ConstraintCompiler, **parameters: Any) -> Any:
    accepted = await compiler.read(RequestParameters.model_validate(parameters))
    return None if accepted is None else accepted.params


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
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice: expected a valid list, got 'a'"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex: expected a valid string, got 5"),
        ({"structured_outputs": {"regex": "a", "x": 1}}, "structured_outputs: expected keys among json, regex, "),
        ({"structured_outputs": {"regex": "a", "_backend": "x"}}, "structured_outputs: expected keys among json, "),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": 5}},
            "structured_outputs.whitespace_pattern: expected a valid string, got 5",
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


def constraint_compiler(checker: Any, *, xgrammar: bool = False, **options: Any) -> ConstraintCompiler:
    """One for vLLM's own parameters."""
    return ConstraintCompiler(VllmEngine(None, ModelFacts(prefers_xgrammar=xgrammar)), checker, **options)


class FakeChecker:
    """Answers after ``go``; counts what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[Any] = []
        self.begun, self.cancelled, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go.set()

    async def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        self.asked.append(value)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return Verdict("xgrammar", automatic=True, as_grammar=False)


@pytest.mark.parametrize("own", [True, False])
async def test_options_that_the_engine_alone_decides_are_refused_where_they_differ(vllm: None, own: bool) -> None:
    """vLLM passes over them; a client that asks for no whitespace would get whitespace."""
    facts = ModelFacts(constraint_options={"disable_any_whitespace": own, "whitespace_pattern": None})
    compiler = ConstraintCompiler(VllmEngine(None, facts), FakeChecker())  # type: ignore[arg-type]
    asked = {"json": SCHEMA, "disable_any_whitespace": True}
    refused = r"^structured_outputs.disable_any_whitespace: expected False, .* for all requests .*, got True"
    if own:
        assert await compiled(compiler, structured_outputs=asked)
    else:
        with pytest.raises(InvalidRequestError, match=refused):
            await compiled(compiler, structured_outputs=asked)
        with pytest.raises(RefusedInVllmError, match=refused):
            await compiler.accept("json", "{}", {"disable_any_whitespace": True})
    assert await compiled(compiler, guided_decoding={"json": SCHEMA, "disable_any_whitespace": False})
    with pytest.raises(InvalidRequestError, match=r"structured_outputs.whitespace_pattern: expected .*got ' '"):
        await compiled(compiler, structured_outputs={"json": SCHEMA, "whitespace_pattern": " "})


async def test_a_grammars_place_is_told(vllm: None) -> None:
    def check(*constraint: Any) -> Verdict:
        try:
            raise RuntimeError("[08:33:25] /project/cpp/grammar_parser.cc:820: EBNF parser error at line 1, column 10")
        except RuntimeError as error:
            raise ValueError("Invalid grammar specification.") from error

    with pytest.raises(InvalidRequestError) as refused:
        await compiled(constraint_compiler(UnlimitedCheck(check)), guided_grammar="root ::= b")
    assert str(refused.value) == (
        "guided_grammar: cannot be compiled: Invalid grammar specification.: EBNF parser error at line 1, column 10"
    )


@pytest.mark.parametrize("size", [10, 10**6])
async def test_reasons_are_short_and_without_addresses(vllm: None, size: int) -> None:
    def check(*constraint: Any) -> Verdict:
        raise ValueError(f"<xgrammar.Grammar object at 0x7f3c5f5d90> {'a' * size}")

    with pytest.raises(InvalidRequestError) as refused:
        await compiled(constraint_compiler(UnlimitedCheck(check)), guided_grammar="root ::= b")
    assert "0x7f" not in str(refused.value)
    assert len(str(refused.value)) < 1100


async def test_a_constraint_is_compiled_once_and_a_refused_one_each_time(vllm: None) -> None:
    good, bad = FakeChecker(), FakeChecker(RefusedConstraintError("no"))
    accepting, refusing = constraint_compiler(good), constraint_compiler(bad)
    for _ in range(2):
        await compiled(accepting, guided_regex="a")
        with pytest.raises(InvalidRequestError, match="guided_regex: cannot be compiled: no"):
            await compiled(refusing, guided_regex="a")
    assert (good.asked, bad.asked) == (["a"], ["a", "a"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            SlowConstraintError(),
            "guided_json: expected a schema that compiles within 7 seconds (STRUCTURED_COMPILE_SECONDS of this model)",
        ),
        (
            DeadlyConstraintError(),
            "guided_json: expected a schema that the compiler can process, got one that crashes it or exhausts",
        ),
    ],
)
async def test_what_was_too_much_is_refused_at_once_for_a_while(vllm: None, error: Exception, message: str) -> None:
    now = [100.0]
    checker = FakeChecker(error)
    compiler = constraint_compiler(checker, seconds=7, clock=lambda: now[0])
    for later, asked in ((0.0, 1), (1.0, 1), (3600.0, 2)):
        now[0] += later
        with pytest.raises(InvalidRequestError) as refused:
            await compiled(compiler, guided_json=SCHEMA)
        assert str(refused.value).startswith(message)
        assert len(checker.asked) == asked


async def test_equal_constraints_share_a_compilation_and_leave_it_one_by_one(vllm: None) -> None:
    checker = FakeChecker()
    checker.go.clear()
    compiler = constraint_compiler(checker)
    tasks = [asyncio.create_task(compiled(compiler, guided_regex="a")) for _ in range(3)]
    await checker.begun.wait()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    assert not checker.cancelled.is_set()
    checker.go.set()
    assert [params.regex for params in await asyncio.gather(*tasks[1:])] == ["a", "a"]
    assert checker.asked == ["a"]


async def test_a_compilation_that_nobody_waits_for_is_ended(vllm: None) -> None:
    checker = FakeChecker()
    checker.go.clear()
    task = asyncio.create_task(compiled(constraint_compiler(checker), guided_regex="a"))
    await checker.begun.wait()
    task.cancel()
    await asyncio.wait([task])
    await asyncio.wait_for(checker.cancelled.wait(), 60)


@pytest.mark.parametrize(
    "parameters",
    [
        {"guided_json": json.dumps({"enum": ["a" * 100]})},
        {"guided_json": {"enum": ["a" * 100]}},
        {"guided_json": {"enum": list(range(100))}},
        {"guided_regex": "红" * 40},
        {"guided_choice": ["a"] * 101},
        {"guided_grammar": "a" * 101},
        {"structured_outputs": {"regex": "a", "whitespace_pattern": " " * 100}},
    ],
)
async def test_a_constraint_beyond_its_size_is_not_even_parsed(vllm: None, parameters: dict[str, Any]) -> None:
    checker = FakeChecker()
    with pytest.raises(InvalidRequestError, match=r"expected at most 100 bytes \(STRUCTURED_MAX_BYTES of this model\)"):
        await compiled(constraint_compiler(checker, max_bytes=100), **parameters)
    assert checker.asked == []


async def test_params_from_vllm_itself_go_the_same_way(vllm: None) -> None:
    checker = FakeChecker()
    compiler = constraint_compiler(checker)
    await compiler.read(RequestParameters(guided_regex="a"))
    await compiler.accept("regex", "a", {})
    assert checker.asked == ["a"]
    checker.error = SlowConstraintError()
    with pytest.raises(
        RefusedInVllmError, match=r"^structured_outputs.json: expected a schema that compiles"
    ) as refused:
        await compiler.accept("json", SCHEMA, {})
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("xgrammar", [True, False])
async def test_lengths_become_patterns_for_xgrammar_alone(vllm: None, xgrammar: bool) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 2}}}
    made = await compiled(constraint_compiler(FakeChecker(), xgrammar=xgrammar), guided_json=schema)
    assert ("pattern" in made.json) == xgrammar
    assert ("maxLength" in made.json) != xgrammar


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from([*(f"guided_{kind}" for kind in KINDS), "response_format", "structured_outputs"])
_KEYED = st.dictionaries(st.sampled_from([*KINDS, "type", "json_schema", "whitespace_pattern"]), _VALUES, max_size=2)


@pytest.mark.slow
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
        await compiler.read(control)
    except InvalidRequestError as error:
        refused = str(error)
    assert len(refused) < 2000


def test_a_schema_nested_beyond_all_measure_is_refused() -> None:
    text = '{"a":' * 40_000 + "1" + "}" * 40_000
    with pytest.raises(InvalidRequestError, match="guided_json: expected"):
        read_constraint(parse_parameters(json.dumps({"guided_json": text}), None, ())[1])
