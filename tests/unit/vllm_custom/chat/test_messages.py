"""OpenAI chat messages: checked, their media taken out, nothing else let through."""

from typing import Any

import pytest

from vllm_custom.chat import messages as chat
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.elements import MediaElement

THOUGHT = {"type": "thinking", "thinking": "four twice"}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_media_are_found_in_order_over_all_messages() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        *user(image("one"), text("and"), {"type": "video_url", "video_url": {"url": "two"}}),
        {"role": "assistant", "content": None},
        *user(text("?"), {"type": "image_url", "image_url": "three"}),
    ]
    assert chat.media_elements(messages) == [
        MediaElement("image", "messages[1].content[0].image_url", b"one"),
        MediaElement("video", "messages[1].content[2].video_url", b"two"),
        MediaElement("image", "messages[3].content[1].image_url", b"three"),
    ]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
@pytest.mark.parametrize(
    "content",
    [
        "hi",
        None,
        [],
        ["hi"],
        [text("hi")],
        [{"type": "refusal", "refusal": "no"}],
        [THOUGHT],
        [{"type": "tool_reference", "name": "x"}],
    ],
    ids=repr,
)
def test_roles_and_texts_that_are_accepted(role: str, content: Any) -> None:
    messages = [{"role": role, "content": content}]
    assert chat.media_elements(messages) == []
    assert chat.with_handles(messages, [], []) == messages


def test_messages_without_content_pass_with_their_other_keys() -> None:
    messages = [{"role": "assistant", "tool_calls": [{"id": "1"}]}, {"role": "tool", "tool_call_id": "1"}]
    assert chat.media_elements(messages) == []
    assert chat.with_handles(messages, [], []) == messages


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"content": "x"}], "messages[0].role: expected one of system, developer, user, assistant, tool, got None"),
        ([{"role": "root", "content": "x"}], "messages[0].role: expected one of system"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role: expected one of system"),
        ([{"role": "user", "content": 5}], "messages[0].content: expected a string or a list of parts, got 5"),
        ([{"role": "user", "content": {}}], "messages[0].content: expected a string or a list of parts, got {}"),
        (user(5), "messages[0].content[0]: expected an object with a type, got 5"),
        (user({}), "messages[0].content[0].type: expected one of text, "),
        (user({"type": ["text"]}), "messages[0].content[0].type: expected one of text, "),
        (user({"type": {"a": 1}}), "messages[0].content[0].type: expected one of text, "),
        (user({"type": "text"}), "messages[0].content[0].text: expected a string, got None"),
        (user({"type": "text", "text": ["x"]}), "messages[0].content[0].text: expected a string, got ['x']"),
        (user({"type": "text", "refusal": "x"}), "messages[0].content[0].text: expected a string, got None"),
        (user({"type": "refusal", "text": "x"}), "messages[0].content[0].refusal: expected a string, got None"),
        (user(text("a"), {"type": "image_url"}), 'messages[0].content[1]: expected "image_url": {"url": "..."}'),
        (user(image(None)), 'messages[0].content[0]: expected "image_url": {"url": "..."} with a string'),
        (user({"type": "image_url", "image_url": None, "uuid": "x"}), 'expected "image_url": {"url": "..."}'),
        (user({"type": "video_url", "video_url": 5}), 'messages[0].content[0]: expected "video_url": {"url": "..."}'),
        (user({"type": "audio_url"}), 'messages[0].content[0]: expected "audio_url": {"url": "..."}'),
        (user({"type": "input_audio", "input_audio": {"format": "wav"}}), 'expected "input_audio": {"data": "..."}'),
        (user({"type": "input_audio", "input_audio": {"url": "x"}}), 'expected "input_audio": {"data": "..."}'),
    ],
)
def test_malformed_messages_are_refused_by_place(messages: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        chat.media_elements(messages)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "kind",
    ["image_pil", "image_embeds", "video_embeds", "audio_embeds", "prompt_embeds", "file"],
)
def test_part_types_for_trusted_code_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"messages\[0\]\.content\[0\]\.type: expected one of .*'{kind}'"):
        chat.media_elements(user({"type": kind, kind: "x"}))


# With any uuid beside it, vLLM reads these keys in place of the text.
SMUGGLED = {
    "uuid": "somebody else's",
    "image_url": {"url": "http://169.254.169.254/"},
    "image_pil": None,
    "image_embeds": "AAAA",
    "video_embeds": "AAAA",
    "prompt_embeds": "AAAA",
}


@pytest.mark.parametrize(
    "part", [text("hi"), {"type": "input_text", "text": "hi"}, {"type": "refusal", "refusal": "hi"}], ids=repr
)
def test_nothing_rides_on_a_text_part(part: dict[str, Any]) -> None:
    messages = user(part | SMUGGLED)
    assert chat.media_elements(messages) == []
    assert chat.with_handles(messages, [], []) == user(part)


def test_nothing_rides_on_a_media_part() -> None:
    messages = user(image("data:,x") | SMUGGLED | {"image_url": {"url": "data:,x", "detail": "high"}})
    assert [element.raw for element in chat.media_elements(messages)] == [b"data:,x"]
    assert chat.with_handles(messages, ["handle"], ["hash"]) == user(
        {"type": "image_url", "image_url": {"url": "handle"}, "uuid": "hash"}
    )


def test_handles_take_the_places_of_the_media_in_order() -> None:
    messages = [
        *user(image("one"), text("then"), {"type": "video_url", "video_url": "two"}),
        {"role": "assistant", "content": "ok"},
        *user(image("three")),
    ]
    replaced = chat.with_handles(messages, ["h1", "h2", "h3"], ["u1", "u2", "u3"])
    assert replaced == [
        *user(
            {"type": "image_url", "image_url": {"url": "h1"}, "uuid": "u1"},
            text("then"),
            {"type": "video_url", "video_url": {"url": "h2"}, "uuid": "u2"},
        ),
        {"role": "assistant", "content": "ok"},
        *user({"type": "image_url", "image_url": {"url": "h3"}, "uuid": "u3"}),
    ]
    assert messages[0]["content"][0] == image("one"), "the client's messages were changed"


def test_both_forms_of_audio_become_one() -> None:
    messages = user(
        {"type": "input_audio", "input_audio": {"data": "one", "format": "wav"}, "uuid": "x"},
        image("two"),
        {"type": "audio_url", "audio_url": {"url": "three"}},
    )
    assert chat.media_elements(messages) == [
        MediaElement("audio", "messages[0].content[0].input_audio.data", b"one"),
        MediaElement("image", "messages[0].content[1].image_url", b"two"),
        MediaElement("audio", "messages[0].content[2].audio_url", b"three"),
    ]
    assert chat.with_handles(messages, ["h1", "h2", "h3"], ["u1", "u2", "u3"]) == user(
        {"type": "audio_url", "audio_url": {"url": "h1"}, "uuid": "u1"},
        {"type": "image_url", "image_url": {"url": "h2"}, "uuid": "u2"},
        {"type": "audio_url", "audio_url": {"url": "h3"}, "uuid": "u3"},
    )


def test_a_prompt_becomes_a_user_turn_with_its_media_first() -> None:
    turn = chat.user_message("What?", [MediaElement("image", "image[0]", b""), MediaElement("video", "video[0]", b"")])
    assert chat.with_handles(turn, ["h1", "h2"], ["u1", "u2"]) == user(
        {"type": "image_url", "image_url": {"url": "h1"}, "uuid": "u1"},
        {"type": "video_url", "video_url": {"url": "h2"}, "uuid": "u2"},
        text("What?"),
    )


def test_a_url_of_lone_surrogates_is_bytes_like_any_other() -> None:
    (element,) = chat.media_elements(user(image("data:,\ud800")))
    assert element.raw == b"data:,\xed\xa0\x80"
