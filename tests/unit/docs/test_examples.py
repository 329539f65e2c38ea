"""How the examples of the pages are found and compared; tests/server/test_documented.py runs them."""

from __future__ import annotations

import pytest

from tests import documented
from tests.documented import Example, prints, read

ALL = documented.examples(documented.pages())
PAGE = """# Title

```bash
first
```

```json
{"a": 1}
```

<!-- not run: takes minutes -->
```python
second
```

Text.

```text
of nothing
```
"""


def test_examples_have_what_they_print_and_why_they_are_not_run() -> None:
    assert read("p.md", PAGE) == [
        Example("p.md", 3, "bash", "first\n", '{"a": 1}\n', None),
        Example("p.md", 12, "python", "second\n", None, "takes minutes"),
    ]


@pytest.mark.parametrize("example", [one for one in ALL if one.not_run], ids=str)
def test_what_is_not_run_has_a_known_reason(example: Example) -> None:
    assert example.not_run in documented.REASONS


def test_every_reason_is_used_and_stands_before_an_example() -> None:
    assert {example.not_run for example in ALL if example.not_run} == documented.REASONS
    marks = sum(path.read_text("utf-8").count("<!-- not run:") for path in documented.pages())
    assert marks == len([example for example in ALL if example.not_run])


def test_most_examples_are_run_and_say_what_they_print() -> None:
    guides = [example for example in ALL if example.page.startswith("docs/guides/")]
    assert len([example for example in guides if not example.not_run and example.output]) >= 20


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ('{"a": 1, "b": "x"}', '{"b":"x","a":1}'),
        ('{"a": [0.30685]}', '{"a": [0.30690]}'),
        ('{"error": "unknown (known: a, ..., z)"}', '{"error": "unknown (known: a, b, c, z)"}'),
        ("a\n...\nz", "a\nb\nc\nz\n"),
    ],
)
def test_the_same(said: str, got: str) -> None:
    assert prints(said, got)


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": [0.3]}', '{"a": [0.4]}'),
        ('{"a": [1]}', '{"a": [1, 1]}'),
        ('{"error": "unknown x"}', '{"error": "unknown y"}'),
        ('{"a": 1}', "a"),
        ("a\n...\nz", "a\nz\ny"),
        ("a", "a b"),
    ],
)
def test_not_the_same(said: str, got: str) -> None:
    assert not prints(said, got)
