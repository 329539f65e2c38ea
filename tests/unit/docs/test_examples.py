"""How the examples of the pages are found and compared; tests/end_to_end/test_documented.py runs them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tests.support import documented
from tests.support.documented import Example, prints, read
from tools.installer import serve
from tools.installer.server import TritonServer

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


def test_every_call_shows_its_answer() -> None:
    run = [example for example in ALL if not example.not_run]
    calls = [example for example in run if "curl" in example.code or example.language == "python"]
    assert len(calls) >= 20
    # Metrics are many lines, and others each time: that there are any is what grep says.
    assert [str(example) for example in calls if example.output is None and "| grep" not in example.code] == []


def test_the_page_shows_what_serve_prints() -> None:
    (shown,) = (example.output for example in ALL if example.code == "python3 build.py serve\n" and example.output)
    server = SimpleNamespace(
        http_url="http://127.0.0.1:8000",
        grpc_url="127.0.0.1:8001",
        metrics_url="http://127.0.0.1:8002/metrics",
        models=["shapes_vl"],
    )
    assert prints(shown, serve.banner(cast(TritonServer, server)))


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ('{"a": 1, "b": "x"}', '{"b":"x","a":1}'),
        ('{"a": [0.30685]}', '{"a": [0.30690]}'),
        ('{"error": "unknown (known: a, ..., z)"}', '{"error": "unknown (known: a, b, c, z)"}'),
        ("a\n...\nz", "a\nb\nc\nz\n"),
        ("a| b| c||", "a b| c|"),
        ("ok  a     1", "ok  a 1\n"),
        ('data: {"text_output":"a"}\n\ndata: {"text_output":" b"}\n\n...', 'data: {"text_output":"a b c"}\n\n'),
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
        ("a| b||", "a| c||"),
        ('data: {"text_output":"a"}\n\ndata: {"text_output":" b"}\n\n...', 'data: {"text_output":"a c"}\n\n'),
    ],
)
def test_not_the_same(said: str, got: str) -> None:
    assert not prints(said, got)
