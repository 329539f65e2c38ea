"""Names of vLLM that are in one of several places, and what is said where they are in none."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.protocol import RunOptions
from vllm_custom.engine.vllm import requests
from vllm_custom.engine.vllm.older import find, has, lacks
from vllm_custom.engine.vllm.older.answers import NoAnswerParsers, parses_in_pieces
from vllm_custom.engine.vllm.older.rendering import renders_in_generate
from vllm_custom.errors import UnsupportedError


def test_the_first_place_that_has_a_name_counts() -> None:
    assert find("dumps", "no.such.module", "json", "pickle") is __import__("json").dumps


def test_a_module_without_the_name_is_passed_over() -> None:
    assert find("loads", "os", "json") is __import__("json").loads


def test_a_name_that_is_nowhere_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="has no nothing_like_it in json, os"):
        find("nothing_like_it", "json", "os")
    assert not has("nothing_like_it", "json", "os")


def test_what_is_lacking_is_refused_with_both_versions() -> None:
    import vllm

    error = lacks("session_id", "0.99")
    assert isinstance(error, UnsupportedError)
    assert str(error) == f"session_id needs vLLM 0.99 or later; this is {vllm.__version__}"


class _OldLlm:
    """Of whose generate an older vLLM has the arguments."""

    errored = False
    vllm_config = SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=""))

    async def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        lora_request: Any = None,
        trace_headers: Any = None,
        priority: int = 0,
    ) -> AsyncGenerator[Any, None]:
        yield SimpleNamespace(finished=True)


def _run(options: RunOptions) -> list[Any]:
    async def collect() -> list[Any]:
        params = SimpleNamespace(structured_outputs=None)
        return [output async for output in requests.run(_OldLlm(), {}, params, options)]

    return asyncio.run(collect())


def test_a_request_without_newer_arguments_runs() -> None:
    assert len(_run(RunOptions("one"))) == 1


def test_a_newer_argument_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedError, match=r"^session_id needs vLLM 0\.32 or later"):
        _run(RunOptions("one", session_id="mine"))


def test_a_newer_argument_that_changes_nothing_is_left_out() -> None:
    assert len(_run(RunOptions("one", reasoning={"reasoning_ended": None}))) == 1


def test_renderers_of_all_ages_are_told_apart() -> None:
    half = SimpleNamespace(render_prompts_async=None)
    whole = SimpleNamespace(render_prompts_async=None, render_cmpl_async=None)
    assert renders_in_generate(SimpleNamespace())
    assert renders_in_generate(SimpleNamespace(renderer=half))
    assert not renders_in_generate(SimpleNamespace(renderer=whole))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when vLLM's parsers are imported first
def test_requests_that_need_parsers_are_refused_where_there_are_none() -> None:
    assert parses_in_pieces()
    with pytest.raises(UnsupportedError, match="tools, and reasoning apart from the answer"):
        NoAnswerParsers().begin(None, [], {}, None)
