"""What clients of the Responses API send back is what vLLM takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from vllm_custom.openai.items import drop_nulls

USER = {"role": "user", "content": "again"}
SENT_BACK: dict[str, dict[str, Any]] = {
    "answer": {
        "type": "message",
        "role": "assistant",
        "id": None,
        "content": [{"type": "output_text", "text": "hello", "annotations": None, "logprobs": None}],
        "status": None,
    },
    "reasoning": {"type": "reasoning", "id": None, "summary": [], "content": None, "encrypted_content": None},
    "call": {"type": "function_call", "id": None, "call_id": "1", "name": "f", "arguments": "{}", "status": None},
}


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("name", SENT_BACK)
def test_fields_that_are_null_are_taken_for_absent(name: str) -> None:
    """vLLM 0.32 refused them with 400 KB of validation errors."""
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    body: dict[str, Any] = {"model": "m", "input": [copy.deepcopy(SENT_BACK[name]), USER]}
    drop_nulls(body)
    assert None not in body["input"][0].values()
    ResponsesRequest.model_validate(body)


@pytest.mark.parametrize("given", [None, "text", ["text", 5, None], [{"content": "text"}], [{"content": [None, "x"]}]])
def test_other_inputs_stay_as_they_are(given: Any) -> None:
    body = {"input": copy.deepcopy(given), "temperature": None}
    drop_nulls(body)
    assert body == {"input": given, "temperature": None}
