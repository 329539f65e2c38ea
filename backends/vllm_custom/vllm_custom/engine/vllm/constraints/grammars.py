"""Run the engine's compilers of constraints outside the engine, and pass their verdicts to the engine."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import time
from collections.abc import AsyncGenerator, Mapping
from types import SimpleNamespace
from typing import Any, cast

from vllm_custom.engine.protocol import Accept, Verdict
from vllm_custom.engine.vllm.older.structured_outputs import key_of, place_of_check
from vllm_custom.engine.vllm.prompts import rendering
from vllm_custom.engine.vllm.sampling import check_structured_outputs
from vllm_custom.kernel.sampling import STRUCTURED_OUTPUTS

_PACKAGE = "vllm.v1.structured_output"
_BACKENDS = {
    "xgrammar": ("backend_xgrammar", "XgrammarBackend"),
    "guidance": ("backend_guidance", "GuidanceBackend"),
    "outlines": ("backend_outlines", "OutlinesBackend"),
    "lm-format-enforcer": ("backend_lm_format_enforcer", "LMFormatEnforcerBackend"),
}
# Where a backend is chosen for each constraint, vLLM 0.32 compiles them all by the one that it needed first.
_AUTOMATIC = ("xgrammar", "guidance")
# The engine's scheduler looks for the next tokens once per step, and everybody's step waits for that.
_MASK_SECONDS = 0.2
_CHECKED = "_vllm_custom_checked"


def compiler_facts(engine: Any) -> bytes:
    """What the compilers need to know of ``engine``, for another process of ours. Blocks: tokenizers are large.

    Raises:
        Exception: whatever a tokenizer raises that cannot be pickled.
    """
    model, config = engine.model_config, engine.vllm_config
    facts = {
        "tokenizer": rendering(engine).tokenizer,
        "vocab_size": model.get_vocab_size(),
        "model_type": getattr(getattr(model, "hf_config", None), "model_type", ""),
        "is_diffusion": getattr(model, "is_diffusion", False),
        "structured_outputs_config": config.structured_outputs_config,
    }
    return pickle.dumps(facts)


def import_compilers() -> None:
    """Import what most models need, before it is known what this one does."""
    for name in _AUTOMATIC:
        with contextlib.suppress(Exception):  # said again, with its reason, where a model needs it
            importlib.import_module(f"{_PACKAGE}.{_BACKENDS[name][0]}")


class GrammarCompilers:
    """The compilers that the engine with these facts uses, with its tokenizer."""

    def __init__(self, facts: bytes) -> None:
        """``facts``: from :func:`compiler_facts` of a process that is trusted."""
        known = pickle.loads(facts)  # noqa: S301 - written by the process that started this one
        self._tokenizer, self._vocab_size = known["tokenizer"], known["vocab_size"]
        model = SimpleNamespace(
            max_logprobs=20,
            is_diffusion=known["is_diffusion"],
            logits_processors=None,
            skip_tokenizer_init=False,
            hf_config=SimpleNamespace(model_type=known["model_type"]),
            get_vocab_size=lambda: self._vocab_size,
        )
        self._config = SimpleNamespace(
            model_config=model,
            speculative_config=None,
            structured_outputs_config=known["structured_outputs_config"],
        )
        self._engine = SimpleNamespace(
            model_config=model,
            vllm_config=self._config,
            renderer=SimpleNamespace(tokenizer=self._tokenizer),
        )
        configured = known["structured_outputs_config"].backend
        self._needed = _AUTOMATIC if configured == "auto" else (configured,)
        self._built = {}
        for name in self._needed:
            try:
                self._built[name] = self._build(name)
            except Exception:  # noqa: S112 - vLLM itself says why, for each constraint that would need it
                continue

    def warm_up(self) -> None:
        """Import what checks need. Compiles nothing, since compilers start threads."""
        with contextlib.suppress(Exception):  # vLLM itself says for each constraint what is wrong
            check_constraint(self._engine, "json", '{"type": "object"}', {})

    def compile(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        """Do what the engine does before the first token of a constraint, with every compiler it may take for it.

        Blocks, for as long as the constraint makes it.

        Raises:
            Exception: whatever vLLM or the compiler raises; vLLM would refuse the constraint as well.
        """
        params = _checked(self._engine, kind, value, options)
        chosen = params._backend
        self._compile(chosen, params)
        for name in self._built:
            if name != chosen:
                try:
                    self._compile(name, params)
                except SlowMaskError:
                    raise
                except Exception:  # noqa: S112 - the engine then fails that one request
                    continue
        return _verdict_of(params, kind)

    def _build(self, name: str) -> Any:
        module, kind = _BACKENDS[name]
        backend = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), kind)
        return backend(self._config, tokenizer=self._tokenizer, vocab_size=self._vocab_size)

    def _compile(self, name: str, params: Any) -> None:
        backend = self._built.get(name) or self._build(name)
        grammar = backend.compile_grammar(*key_of(params))
        mask = backend.allocate_token_bitmask(1)
        if min(_seconds_to_fill(grammar, mask) for _ in range(2)) > _MASK_SECONDS:
            raise SlowMaskError(f"its next token takes more than {_MASK_SECONDS} seconds to find")
        if not mask.any():  # the engine would end the request with an error of its own
            raise NoTextError("no text satisfies it: there is no token that may come first")


def check_constraint(engine: Any, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
    """What ``generate`` checks before the engine has a constraint. It parses, and compiles little.

    Blocks. Raises whatever vLLM or the compiler raises.
    """
    return _verdict_of(_checked(engine, kind, value, options), kind)


def _checked(engine: Any, kind: str, value: Any, options: Mapping[str, Any]) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    params = StructuredOutputsParams(**{kind: value}, **options)
    check_structured_outputs(engine, params)
    return params


def _verdict_of(params: Any, kind: str) -> Verdict:
    return Verdict(params._backend, params._backend_was_auto, kind == "choice" and params.choice is None)


class SlowMaskError(Exception):
    """A constraint that would hold up everybody at each token."""


class NoTextError(Exception):
    """A constraint like ``root ::= root``, or a schema that refers to itself and to nothing else."""


def _seconds_to_fill(grammar: Any, mask: Any) -> float:
    begun = time.perf_counter()
    grammar.fill_bitmask(mask, 0)
    return time.perf_counter() - begun


def constraint_of(params: Any) -> tuple[str, Any, dict[str, Any]]:
    """Kind, value and other options of a StructuredOutputsParams that holds one constraint."""
    given = {
        name: getattr(params, name)
        for name in params.__dataclass_fields__
        if not name.startswith("_") and getattr(params, name) not in (None, False)
    }
    kind = next(
        name for name in given if name in ("json", "regex", "choice", "grammar", "structural_tag", "json_object")
    )
    return kind, given.pop(kind), given


def guard_generate(engine: Any, accept: Accept) -> None:
    """Let ``engine.generate`` begin with a constraint only after ``accept`` has returned for it, whatever calls.

    What was accepted is not checked again: vLLM would do so on the event loop, for as long as parsing takes.
    """
    generate = engine.generate
    _skip_checked()

    def guarded(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if getattr(sampling_params, "structured_outputs", None) is None:
            return cast(AsyncGenerator[Any, None], generate(prompt, sampling_params, *args, **kwargs))
        return checked(prompt, sampling_params, *args, **kwargs)

    async def checked(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        constraint = sampling_params.structured_outputs
        _take(constraint, await accept(*constraint_of(constraint)))
        outputs = generate(prompt, sampling_params, *args, **kwargs)
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()

    engine.generate = guarded


def _take(params: Any, verdict: Verdict) -> None:
    if verdict.as_grammar and params.choice is not None:
        from vllm.v1.structured_output.utils import choice_as_grammar

        params.grammar, params.choice = choice_as_grammar(params.choice), None
    params._backend, params._backend_was_auto = verdict.backend, verdict.automatic
    setattr(params, _CHECKED, True)


def _skip_checked() -> None:
    """Have vLLM's check leave out what :func:`_take` has marked."""
    owner, name = place_of_check()
    check = getattr(owner, name, None)  # a later version may have it elsewhere: then it checks once more
    if check is None or hasattr(check, _CHECKED):
        return

    def check_once(self: Any, *args: Any, **kwargs: Any) -> None:
        params = self if hasattr(self, STRUCTURED_OUTPUTS) else args[0]
        if not getattr(params.structured_outputs, _CHECKED, False):
            check(self, *args, **kwargs)

    setattr(check_once, _CHECKED, True)
    setattr(owner, name, check_once)
