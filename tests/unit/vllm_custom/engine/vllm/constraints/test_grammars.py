"""The engine begins with a constraint only after it was accepted, and vLLM does not parse that one again."""

import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.engine.vllm.constraints.grammars import (
    GrammarCompilers,
    NoTextError,
    SlowMaskError,
    Verdict,
    compiler_facts,
    constraint_of,
    guard_generate,
)
from vllm_custom.errors import InvalidRequestError

WEIGHTS = CHECKOUT / "model_repository/shapes_vl/1/weights"
VERDICT = Verdict("xgrammar", automatic=True, as_grammar=True)


class Engine:
    """Checks parameters as vLLM's does, then gives one output."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.closed = 0

    async def generate(self, prompt: str, params: Any, request_id: str, *, priority: int) -> AsyncGenerator[str, None]:
        from vllm.config import StructuredOutputsConfig

        model = SimpleNamespace(max_logprobs=20, is_diffusion=False, logits_processors=None)
        params.verify(model, None, StructuredOutputsConfig(backend="xgrammar"), object())
        self.begun.append(params)
        try:
            yield f"{prompt} {request_id} {priority}"
            yield "more"
        finally:
            self.closed += 1


def guarded(accepted: list[Any], error: Exception | None = None) -> Engine:
    async def accept(kind: str, value: Any, options: Any) -> Verdict:
        accepted.append((kind, value, options))
        if error is not None:
            raise error
        return VERDICT

    engine = Engine()
    guard_generate(engine, accept)
    return engine


def sampling(**constraint: Any) -> Any:
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    return SamplingParams(structured_outputs=StructuredOutputsParams(**constraint) if constraint else None)


async def test_without_a_constraint_nothing_is_asked(vllm: None) -> None:
    accepted: list[Any] = []
    engine = guarded(accepted)
    assert [output async for output in engine.generate("p", sampling(), "id", priority=3)] == ["p id 3", "more"]
    assert accepted == []


async def test_an_accepted_constraint_is_not_parsed_again_on_the_event_loop(vllm: None) -> None:
    """vLLM parsed each constraint once more, with everybody waiting: its own check would refuse this one."""
    accepted: list[Any] = []
    engine = guarded(accepted)
    params = sampling(regex="(a")
    assert [output async for output in engine.generate("p", params, "id", priority=3)] == ["p id 3", "more"]
    assert accepted == [("regex", "(a", {})]
    begun = engine.begun[0].structured_outputs
    assert (begun._backend, begun._backend_was_auto) == ("xgrammar", True)


async def test_what_was_not_accepted_is_still_checked_by_vllm(vllm: None) -> None:
    guarded([])
    with pytest.raises(Exception, match="Failed to transform regex"):
        await anext(Engine().generate("p", sampling(regex="(a"), "id", priority=3))


async def test_choices_reach_the_engine_as_the_grammar_that_vllm_makes_of_them(vllm: None) -> None:
    engine = guarded([])
    assert await anext(engine.generate("p", sampling(choice=["a", 'b"']), "id", priority=3))
    begun = engine.begun[0].structured_outputs
    assert (begun.choice, begun.grammar) == (None, 'root ::= "a" | "b\\""')


async def test_a_refused_constraint_does_not_reach_the_engine(vllm: None) -> None:
    engine = guarded([], InvalidRequestError("no"))
    with pytest.raises(InvalidRequestError, match="no"):
        await anext(engine.generate("p", sampling(regex="a"), "id", priority=3))
    assert engine.begun == []


async def test_leaving_early_closes_the_engines_generator(vllm: None) -> None:
    engine = guarded([])
    outputs = engine.generate("p", sampling(regex="a"), "id", priority=3)
    await anext(outputs)
    await outputs.aclose()
    assert engine.closed == 1


def test_constraints_are_read_back(vllm: None) -> None:
    params = sampling(json={"type": "object"}, disable_any_whitespace=True).structured_outputs
    assert constraint_of(params) == ("json", {"type": "object"}, {"disable_any_whitespace": True})


class SlowBackend:
    """A compiler whose constraints take ``seconds`` for each token."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def compile_grammar(self, kind: Any, text: str) -> SimpleNamespace:
        return SimpleNamespace(fill_bitmask=lambda mask, index: time.sleep(self.seconds))

    def allocate_token_bitmask(self, count: int) -> Any:
        return np.ones(count)


def compilers_of_shapes() -> GrammarCompilers:
    from transformers import AutoTokenizer
    from vllm.config import StructuredOutputsConfig

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    engine = SimpleNamespace(
        model_config=SimpleNamespace(get_vocab_size=lambda: len(tokenizer)),
        vllm_config=SimpleNamespace(structured_outputs_config=StructuredOutputsConfig(backend="auto")),
        renderer=SimpleNamespace(tokenizer=tokenizer),
    )
    return GrammarCompilers(compiler_facts(engine))


@pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning")  # vLLM's own use of xgrammar
def test_a_constraint_that_no_text_satisfies_is_refused(vllm: None) -> None:
    """The engine ended such a request with an error: 500 by the OpenAI API, as if the server were broken."""
    compilers = compilers_of_shapes()
    for kind, value in (("grammar", "root ::= root"), ("json", '{"$ref": "#"}')):
        with pytest.raises(NoTextError, match="no text satisfies it"):
            compilers.compile(kind, value, {})
    assert compilers.compile("choice", [""], {}).backend == "xgrammar"


@pytest.mark.parametrize("chosen", [True, False])
def test_a_constraint_whose_tokens_are_slow_to_find_is_refused(vllm: None, chosen: bool) -> None:
    """The engine's scheduler would look for them, with everybody waiting; whichever of its compilers it took."""
    compilers = compilers_of_shapes()
    quick, slow = SlowBackend(0.0), SlowBackend(0.3)
    compilers._built = {"xgrammar": slow, "guidance": quick} if chosen else {"xgrammar": quick, "guidance": slow}
    with pytest.raises(SlowMaskError, match=r"its next token takes more than 0\.2 seconds to find"):
        compilers.compile("regex", "a", {})
    compilers._built = {"xgrammar": quick, "guidance": quick}
    assert compilers.compile("regex", "a", {}).backend == "xgrammar"
