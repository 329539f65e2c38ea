"""The program and the pages use the words of docs/glossary.md, and none of its columns "instead of"."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.installer.paths import CHECKOUT

GLOSSARY = CHECKOUT / "docs" / "glossary.md"
PAGES = [
    *sorted(CHECKOUT.glob("*.md")),
    *sorted(path for path in (CHECKOUT / "docs").rglob("*.md") if path != GLOSSARY),
    *sorted((CHECKOUT / "model_repository").glob("*/README.md")),
    *sorted((CHECKOUT / "model_repository").glob("*/config.pbtxt")),
    *(CHECKOUT / name / "README.md" for name in ("backends/vllm", "benchmarks", "examples", "patches")),
]
MODULES = [
    CHECKOUT / "build.py",
    CHECKOUT / "tools" / "shapes_vl" / "__main__.py",
    *sorted(
        path
        for folder in ("backends", "frontend", "tools/installer", "patches", "benchmarks", "examples")
        for path in (CHECKOUT / folder).rglob("*.py")
    ),
]
# Names of files, which stay as they are.
ALLOWED = re.compile(r"\bclip\.gif\b|\bpicture\.png\b")
# An alias of the official backend's, and what the demo imports of the tests.
ALLOWED_NAMES = {"guided_decoding", "picture"}


def banned_words() -> list[str]:
    """The last column of every table in the glossary whose head says "instead of"."""
    words: list[str] = []
    listed = False
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            listed = False
        elif cells[-1] == "instead of":
            listed = True
        elif listed and not set(cells[-1]) <= set("- "):
            words += [word.strip() for word in cells[-1].split(",")]
    return words


WORDS = banned_words()
# The longest first, so that a phrase is found whole.
_ANY = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(WORDS, key=len, reverse=True))
_PATTERN = re.compile(rf"\b(?:{_ANY})\b", re.IGNORECASE)


def found_in(text: str) -> list[str]:
    """The words to avoid in ``text``, each after the number of its line there."""
    allowed = ALLOWED.sub("", text)
    return [f"{allowed.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in _PATTERN.finditer(allowed)]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Lines and values of all strings of a module except docstrings; an f-string is one text."""
    nodes = list(ast.walk(ast.parse(source)))
    hidden: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            hidden |= {id(part) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.lineno, node.value


def remarks(source: str) -> Iterator[tuple[int, str]]:
    """Lines and texts of the comments and docstrings of a module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def names(source: str) -> Iterator[tuple[int, str]]:
    """Lines and names of what a module defines: functions, classes, arguments, variables and attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words_of(identifier: str) -> str:
    """``_make_room`` and ``MakeRoom`` as words with blanks between them."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", identifier).strip()


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_have_the_fields_words(page: Path) -> None:
    assert found_in(page.read_text(encoding="utf-8")) == []


def test_texts_of_the_program_have_the_fields_words() -> None:
    found = [
        f"{name(path)}, string of line {number}: {word} in {text!r}"
        for path in MODULES
        for number, text in texts(path.read_text(encoding="utf-8"))
        for word in found_in(text)
    ]
    assert found == []


def test_comments_and_docstrings_have_the_fields_words() -> None:
    found = [
        f"{name(path)}, from line {number}: {word} in {text!r}"
        for path in MODULES
        for number, text in remarks(path.read_text(encoding="utf-8"))
        for word in found_in(text)
    ]
    assert found == []


def test_names_in_the_code_have_the_fields_words() -> None:
    found = [
        f"{name(path)}, line {number}: {identifier}"
        for path in MODULES
        for number, identifier in names(path.read_text(encoding="utf-8"))
        if identifier not in ALLOWED_NAMES and found_in(words_of(identifier))
    ]
    assert found == []


def test_the_glossary_has_words_to_avoid() -> None:
    assert {"pictures", "clips", "sounds", "rooms", "mend", "wish", "beside", "guided decoding"} <= set(WORDS)
    assert len(WORDS) == len(set(WORDS))


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_found_as_a_whole_word(word: str) -> None:
    assert found_in(f"an error:\n{word.capitalize()}, got 1") == [f"2: {word.capitalize()}"]
    assert len(found_in(word.replace(" ", "\n"))) == 1
    assert found_in(f"x{word.replace(' ', '_')} {word.replace(' ', '_')}_y") == []


def test_docstrings_are_not_texts_and_parts_of_f_strings_are_one() -> None:
    source = '"""A picture."""\nx = 1\n"""A clip."""\nraise E(f"{x}: the sound {x} track", "a room")\n'
    assert list(texts(source)) == [(4, "{}: the sound {} track"), (4, "a room")]
    assert [found_in(text) for _, text in texts(source)] == [["1: sound"], ["1: room"]]


def test_comments_docstrings_and_names_are_read() -> None:
    source = "class MakeRoom:\n def visit(self, wish):  # a clip\n  'A picture.'\n  self.sounds = film = np.clip(1)\n"
    assert [found_in(text) for _, text in remarks(source)] == [["1: clip"], ["1: picture"]]
    bad = {identifier for _, identifier in names(source) if found_in(words_of(identifier))}
    assert bad == {"MakeRoom", "visit", "wish", "sounds", "film"}


def test_names_of_files_are_allowed() -> None:
    assert found_in("docs/images/clip.gif") == []
    assert found_in("a clip.") == ["1: clip"]
