"""Schemas as xgrammar gets them, against xgrammar itself."""

import json
from typing import Any

import jsonschema
import pytest

from vllm_custom.structured_outputs.xgrammar_workarounds import lengths_as_patterns


def accepts(schema: str, text: str) -> bool:
    """Whether xgrammar lets a model write ``text``."""
    vocabulary = [bytes([value]) for value in range(256)]
    xgrammar = pytest.importorskip("xgrammar", reason="comes with vLLM")
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary))
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema, any_whitespace=False))
    return bool(matcher.accept_string(text))


LIMITED: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 3},
    {"type": "string", "minLength": 1},
    {"type": "string", "minLength": 1, "maxLength": 3},
    {"type": ["string", "null"], "maxLength": 3},
]


@pytest.mark.parametrize("schema", LIMITED)
@pytest.mark.parametrize("text", ['"\t"', '"\x01"', '"ab"', '"äö"', '"红"', '""', '"abcd"', "null", '"\\n"'])
def test_what_xgrammar_lets_through_is_json_of_the_schema(schema: dict[str, Any], text: str) -> None:
    given = json.dumps(schema)
    mended = lengths_as_patterns(given)
    if accepts(mended, text):
        jsonschema.validate(json.loads(text), schema)
    controls = any(ord(char) < 32 for char in text)
    assert accepts(mended, text) == (accepts(given, text) and not controls)


def test_it_is_still_needed() -> None:
    """When this fails, xgrammar has been mended, and lengths_as_patterns can go."""
    assert accepts(json.dumps(LIMITED[0]), '"\t"')


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "string"}',
        '{"type": "string", "maxLength": 3, "pattern": "^a"}',
        '{"type": "string", "maxLength": 3, "format": "date"}',
        '{"enum": [{"type": "string", "maxLength": 3}]}',
        '{"type": "integer", "maxLength": 3}',
        '{"type": "string", "minLength": 5, "maxLength": 2}',
        '{"type": "string", "maxLength": "3"}',
        '{"type": "string", "maxLength": -1}',
        '{"type": "string", "maxLength": true}',
        '{"properties": {"maxLength": {"type": "string"}, "type": {"const": "string"}}}',
    ],
)
def test_everything_else_stays_as_it_is(schema: str) -> None:
    assert json.loads(lengths_as_patterns(schema)) == json.loads(schema)


@pytest.mark.parametrize("text", ['{"maxLength"', "[" * 100_000 + '"maxLength"'])
def test_what_is_no_schema_comes_back(text: str) -> None:
    assert lengths_as_patterns(text) == text


def test_strings_are_found_wherever_they_are() -> None:
    leaf = {"type": "string", "maxLength": 2}
    schema = {
        "properties": {"default": {"type": "object"}, "a": leaf},
        "items": [leaf],
        "$defs": {"b": {"anyOf": [{"type": "null"}, leaf]}},
    }
    found = lengths_as_patterns(json.dumps(schema))
    assert "maxLength" not in found
    assert found.count("pattern") == 3
