"""What an AsyncLLM has that makes requests of prompts, for the null engine: versions of vLLM differ in it."""

from __future__ import annotations

import inspect
from typing import Any

from vllm_custom.engine.vllm.older import find
from vllm_custom.engine.vllm.older.structured_outputs import request_maker

_TOKENIZERS = (
    ("cached_tokenizer_from_config", "vllm.tokenizers"),
    ("init_tokenizer_from_configs", "vllm.transformers_utils.tokenizer"),
)


def equip(engine: Any, vllm_config: Any) -> None:
    """Give ``engine`` its ``renderer`` and ``input_processor``, or what was in their places."""
    maker = request_maker()
    parameters = inspect.signature(maker).parameters
    if "renderer" in parameters:
        engine.renderer = find("renderer_from_config", "vllm.renderers.registry", "vllm.renderers")(vllm_config)
        engine.input_processor = maker(vllm_config, engine.renderer)
    elif "tokenizer" in parameters:
        engine.input_processor = maker(vllm_config, _tokenizer(vllm_config.model_config))
        if not hasattr(type(engine), "processor"):  # its only name in vLLM 0.11
            engine.processor = engine.input_processor
    else:
        engine.input_processor = maker(vllm_config)


def tokenizer_of(engine: Any) -> Any:
    renderer = getattr(engine, "renderer", None)
    return engine.input_processor.tokenizer if renderer is None else renderer.get_tokenizer()


def make_request(engine: Any, *arguments: Any, **given: Any) -> Any:
    """vLLM's request, with all of its checks."""
    process = engine.input_processor.process_inputs
    known = inspect.signature(process).parameters
    made = process(*arguments, **{name: value for name, value in given.items() if name in known})
    return made[1] if isinstance(made, tuple) else made  # vLLM 0.11.0 gives the prompt's text as well


def collector(kind: Any, request_id: str) -> Any:
    """vLLM's RequestOutputCollector."""
    made = find("RequestOutputCollector", "vllm.v1.engine.output_processor")
    return made(kind, request_id) if "request_id" in inspect.signature(made).parameters else made(kind)


def _tokenizer(model_config: Any) -> Any:
    for name, module in _TOKENIZERS:
        try:
            return find(name, module)(model_config)
        except ImportError:
            continue
    raise ImportError("vLLM makes tokenizers in another way")
