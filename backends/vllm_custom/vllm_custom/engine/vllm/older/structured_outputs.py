"""Structured outputs, checked where versions of vLLM up to 0.16 do it: in what makes requests of prompts."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

from vllm_custom.engine.vllm.older.names import find

_PROCESSORS = (
    ("InputProcessor", "vllm.v1.engine.input_processor"),
    ("Processor", "vllm.v1.engine.processor"),
)
_CHECK = "_validate_structured_output"


def request_maker() -> Any:
    """vLLM's class that checks parameters and makes requests."""
    for name, module in _PROCESSORS:
        try:
            return find(name, module)
        except ImportError:
            continue
    raise ImportError("vLLM has no processor of inputs")


def check_structured_outputs(config: Any, tokenizer: Any, params: Any) -> None:
    """Check those of ``params``, as ``generate`` would. Raises whatever vLLM or the compiler raises."""
    known = SimpleNamespace(
        structured_outputs_config=config.structured_outputs_config,
        model_config=config.model_config,
        tokenizer=tokenizer,
    )
    getattr(request_maker(), _CHECK)(known, params)


def place_of_check() -> tuple[Any, str]:
    """The class whose method checks structured outputs, and the method's name."""
    from vllm.sampling_params import SamplingParams

    newer = "_validate_structured_outputs"
    return (SamplingParams, newer) if hasattr(SamplingParams, newer) else (request_maker(), _CHECK)


def key_of(params: Any) -> Any:
    """What vLLM's compilers take of a StructuredOutputsParams: the kind of the constraint, and the constraint."""
    from vllm.v1.structured_output.request import get_structured_output_key

    whole = "sampling_params" in inspect.signature(get_structured_output_key).parameters  # as in vLLM 0.11.0
    return get_structured_output_key(SimpleNamespace(structured_outputs=params) if whole else params)
