"""Messages in the spellings of several APIs become one."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_custom.chat.spelling import as_chat


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"image_url": "x"}, {"type": "image_url", "image_url": "x"}),
        ({"video_url": {"url": "x"}}, {"type": "video_url", "video_url": {"url": "x"}}),
        ({"input_audio": {"data": "x"}}, {"type": "input_audio", "input_audio": {"data": "x"}}),
        ({"type": "input_image", "image_url": "x"}, {"type": "image_url", "image_url": "x"}),
        ({"type": "image_url", "image_url": "x"}, {"type": "image_url", "image_url": "x"}),
        ({"type": "image_url", "url": "x"}, {"type": "image_url", "image_url": {"url": "x"}}),
        ({"type": "image_url", "url": "x", "image_url": "y"}, {"type": "image_url", "url": "x", "image_url": "y"}),
        ({"text": "x"}, {"text": "x"}),
        ({"type": ["image_url"]}, {"type": ["image_url"]}),
        ("x", "x"),
        (5, 5),
    ],
)
def test_parts(part: Any, expected: Any) -> None:
    given = [{"role": "user", "content": [part, "y"]}]
    assert as_chat(given) == [{"role": "user", "content": [expected, "y"]}]
    assert given == [{"role": "user", "content": [part, "y"]}], "the client's own objects stay"


def test_a_text_that_is_null_is_left_out() -> None:
    """SDKs write all fields of a part, those without a value too; vLLM skips such a part."""
    content = [{"type": "text", "text": None}, {"type": "refusal", "refusal": None}, {"type": "text", "text": "x"}]
    assert as_chat([{"role": "assistant", "content": content}])[0]["content"] == [{"type": "text", "text": "x"}]
    (kept,) = as_chat([{"role": "user", "content": [{"type": "text"}]}])
    assert kept["content"] == [{"type": "text"}], "what has no text at all is refused later"


def test_reasoning_by_its_older_name() -> None:
    """As DeepSeek's API and older versions of vLLM send it back."""
    older = {"role": "assistant", "content": "8", "reasoning_content": "four twice"}
    assert as_chat([older])[0]["reasoning"] == "four twice"
    assert as_chat([{**older, "reasoning": "twice four"}])[0]["reasoning"] == "twice four"
    assert as_chat([{"role": "user", "content": "4+4="}]) == [{"role": "user", "content": "4+4="}]
