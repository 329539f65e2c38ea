"""SamplingParams and structured outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from vllm_custom.engine.vllm.older import structured_outputs as older
from vllm_custom.engine.vllm.prompts import rendering
from vllm_custom.errors import InvalidRequestError
from vllm_custom.kernel import engine_errors, sampling

_ENGINES_OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


def sampling_params(values: Mapping[str, Any], *, stream: bool) -> Any:
    """SamplingParams; with ``stream`` each output holds what is new, else the only output is the last one.

    Raises:
        BackendError: vLLM refuses a value.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    try:
        return SamplingParams(**values, output_kind=kind)
    except Exception as error:
        known = engine_errors.explain(error)
        raise known or InvalidRequestError(f"sampling parameters were refused: {error}") from error


def structured_outputs(values: Mapping[str, Any]) -> Any:
    """StructuredOutputsParams, of :func:`structured_output_options`; raises what pydantic and vLLM raise."""
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**values)


def structured_output_options() -> Sequence[str]:
    """Fields of StructuredOutputsParams."""
    from vllm.sampling_params import StructuredOutputsParams

    return sampling.structured_output_options(StructuredOutputsParams)


def check_structured_outputs(engine: Any, structured_outputs: Any) -> None:
    """Check a StructuredOutputsParams with the configured backend, as ``generate`` would; it may be changed.

    Parses it, and compiles it in part. Blocks. Raises whatever vLLM or the compiler raises.
    """
    from vllm.sampling_params import SamplingParams

    config, tokenizer = engine.vllm_config, rendering(engine).tokenizer
    params = SamplingParams(structured_outputs=structured_outputs)
    if not hasattr(params, "verify"):
        older.check_structured_outputs(config, tokenizer, params)
        return
    params.verify(engine.model_config, config.speculative_config, config.structured_outputs_config, tokenizer)


def prefers_xgrammar(engine: Any) -> bool:
    """Whether structured outputs are compiled by xgrammar where that can do it (``auto`` begins with it)."""
    return engine.vllm_config.structured_outputs_config.backend in ("auto", "xgrammar")


def constraint_options(engine: Any) -> dict[str, Any]:
    """Options of a StructuredOutputsParams that vLLM's compilers take from the engine's configuration alone."""
    config = engine.vllm_config.structured_outputs_config
    return {name: getattr(config, name, None) for name in _ENGINES_OPTIONS}


def default_sampling(engine: Any) -> dict[str, Any]:
    """The sampling parameters of the model's generation_config, as ``vllm serve`` merges them."""
    return dict(engine.model_config.get_diff_sampling_param())


def max_tokens_limit(engine: Any) -> int | None:
    """The most tokens that any request may generate: a max_new_tokens that the operator set, or None.

    ``vllm serve`` takes the one of the model's own generation_config as a default only, and the one of
    ``override_generation_config`` or of a generation_config given by its folder as a limit as well.
    """
    config = engine.model_config
    if getattr(config, "generation_config", "auto") not in ("auto", "vllm"):
        return cast("int | None", default_sampling(engine).get("max_tokens"))
    return cast("int | None", (getattr(config, "override_generation_config", None) or {}).get("max_new_tokens"))


def sampling_fields() -> dict[str, Any]:
    """Name to type of every public field of SamplingParams that a request may set."""
    from vllm.sampling_params import SamplingParams

    fields = sampling.public_fields(SamplingParams)
    # One of several ways to ask for a constraint, and read with the others.
    fields.pop(sampling.STRUCTURED_OUTPUTS, None)
    return fields
