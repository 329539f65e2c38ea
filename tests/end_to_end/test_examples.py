"""Every file in examples/ runs against a real server, and prints what the model answers."""

from __future__ import annotations

import json

import pytest

from tests.support import examples
from tests.support.examples import IMAGE, KINDS, run_example
from tests.support.frontend_process import Frontend
from tests.support.media_files import Files
from tools.installer.server import TritonServer

DESCRIPTION = "a green star, a white triangle and a red square"
ANSWERS = ["2", "5", "8", "9"]
# Of this model the answers to its questions are known. http_infer.py runs in test_audio.py.
NAMES = [path.name for path in examples.files() if path.name != "http_infer.py"]


@pytest.fixture
def printed(
    request: pytest.FixtureRequest, triton: TritonServer, superset: str, frontend: Frontend, files: Files
) -> dict[str, str]:
    files.files["/shapes.png"] = IMAGE.read_bytes()
    variables = {
        "IMAGE_URL": f"{files.url}/shapes.png",
        "OPENAI_BASE_URL": frontend.base_url,
        "ANTHROPIC_BASE_URL": frontend.base_url.removesuffix("/v1"),
    }
    return run_example(request.param, triton, superset, **variables)


@pytest.mark.parametrize("printed", [name for name in NAMES if name != "curl.sh"], indirect=True)
def test_the_example_prints_the_answers(printed: dict[str, str]) -> None:
    expected = {"bytes": DESCRIPTION, "url": DESCRIPTION, "stream": DESCRIPTION, "tool": "paint", "batch": str(ANSWERS)}
    assert printed == expected


@pytest.mark.parametrize("printed", ["curl.sh"], indirect=True)
def test_curl_prints_json(printed: dict[str, str]) -> None:
    assert list(printed) == list(KINDS)
    assert json.loads(printed["bytes"])["text_output"] == json.loads(printed["url"])["text_output"] == DESCRIPTION
    events = [json.loads(line.removeprefix("data: ")) for line in printed["stream"].splitlines() if line]
    assert "".join(event["text_output"] for event in events) == DESCRIPTION
    (call,) = json.loads(printed["tool"])["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "paint"
    assert [choice["text"] for choice in json.loads(printed["batch"])["choices"]] == ANSWERS
