"""Constraints for guided decoding whose texts are short, each with its own check."""

from __future__ import annotations

import random
from typing import Any

import lark

REGEXES = (
    "[a-f]{3}-[0-9]{4}",
    "(yes|no)( indeed)?",
    r"\d{4}-\d{2}-\d{2}",
    r"[A-Z][a-z]{2,5} [A-Z]\.",
    r"#[0-9a-fA-F]{6}",
    r"(\+|-)?[1-9][0-9]{0,5}",
    r"[a-z]{1,9}@[a-z]{2,8}\.(org|net)",
    r"(a|b|c)(,(a|b|c)){2}",
    r"[^aeiou\s]{5}",
    r"(0|1){8}",
    r"v[0-9]{1,2}\.[0-9]{1,3}\.[0-9]{1,2}",
    r"(red|green|blue) (circle|square)",
    r"\([0-9]{3}\) [0-9]{3}",
    r"[α-ω]{2,4}",
    r"(红|绿|蓝)色",
    r"x?y{2}z{0,2}",
    r"[0-9a-f]{4}(:[0-9a-f]{4}){3}",
    r"Q[1-4] 20[0-9]{2}",
    r"\[(true|false)\]",
    r"a{1,3}|b{4,6}",
)

# What xgrammar reads, and the same language for lark to check with.
GRAMMARS = (
    (
        (
            'root ::= term op term op term\nterm ::= number | "(" number op number ")"\nop ::= "+" | "-"\n'
            "number ::= [0-9]{1,3}"
        ),
        'start: term op term op term\nterm: number | "(" number op number ")"\nop: "+" | "-"\nnumber: /[0-9]{1,3}/',
    ),
    (
        'root ::= "[" item ("," item){0,3} "]"\nitem ::= "a" | "b" | "[" "c" "]"',
        'start: "[" item ("," item)~0..3 "]"\nitem: "a" | "b" | "[" "c" "]"',
    ),
    (
        (
            'root ::= "SELECT " column " FROM " table (" WHERE " column "=" value)?\n'
            'column ::= "name" | "size"\ntable ::= "shapes" | "colours"\nvalue ::= [0-9]{1,2}'
        ),
        (
            'start: "SELECT " column " FROM " table (" WHERE " column "=" value)?\n'
            'column: "name" | "size"\ntable: "shapes" | "colours"\nvalue: /[0-9]{1,2}/'
        ),
    ),
)


def follows(grammar: str, text: str) -> bool:
    """Whether lark can parse ``text`` with its ``grammar``."""
    try:
        lark.Lark(grammar).parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


def random_object(random_: random.Random, depth: int) -> dict[str, Any]:
    """A schema of an object with one to three properties, some of them optional."""
    names = random_.sample(["name", "size", "tags", "kind", "x", "größe"], random_.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: random_schema(random_, depth - 1) for name in names},
        "required": random_.sample(names, random_.randint(1, len(names))),
        "additionalProperties": False,
    }


def random_schema(random_: random.Random, depth: int) -> dict[str, Any]:
    """A schema whose texts are short: strings, numbers and lists are bounded."""
    low, count = random_.randint(-50, 50), random_.randint(0, 2)
    leaves: list[dict[str, Any]] = [
        {"type": "string", "maxLength": random_.randint(1, 8)},
        {"type": "string", "pattern": random_.choice(["^[a-c]{2,4}$", "^(yes|no)$", "^[0-9]{3}-[0-9]{2}$"])},
        {"enum": random_.sample(["red", "green", 1, 2, None, True, "a b"], 3)},
        {"const": random_.choice(["fixed", 7, False])},
        {"type": "integer", "minimum": low, "maximum": low + random_.randint(0, 100)},
        {"type": "boolean"},
        {"type": "null"},
    ]
    if depth <= 0 or random_.random() < 0.5:
        return random_.choice(leaves)
    return random_.choice(
        [
            random_object(random_, depth),
            {"type": "array", "items": random_.choice(leaves), "minItems": count, "maxItems": count + 2},
            {"anyOf": random_.sample(leaves, 2)},
            {"type": "array", "prefixItems": random_.sample(leaves, 2), "items": False, "minItems": 2},
        ]
    )
