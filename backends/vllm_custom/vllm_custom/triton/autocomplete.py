"""Fill in what config.pbtxt leaves out, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.contract.tensors import INPUTS, OUTPUTS
from vllm_custom.errors import ConfigError
from vllm_custom.kernel.official_tensors import add_missing_tensors


def auto_complete(config: Any) -> Any:
    """Add the contract's missing tensors and the decoupled policy to ``config``; what the user wrote stays.

    ``config`` is Triton's ``ModelConfig`` of the python backend (``as_dict``, ``add_input``, ``add_output``,
    ``set_model_transaction_policy``). The batch size is left alone: unset is 0, which means that vLLM batches.

    Raises:
        ConfigError: as :func:`check_response_cache`.
    """
    declared = config.as_dict()
    check_response_cache(declared)
    add_missing_tensors(
        config,
        [spec.as_config(optional=True) for spec in INPUTS],
        [spec.as_config(optional=False) for spec in OUTPUTS],
    )
    if not declared.get("model_transaction_policy"):
        config.set_model_transaction_policy({"decoupled": True})
    return config


def check_response_cache(model_config: Mapping[str, Any]) -> None:
    """Refuse Triton's response cache, which would answer one request with what another one got.

    Raises:
        ConfigError: config.pbtxt has ``response_cache { enable: true }``.
    """
    if (model_config.get("response_cache") or {}).get("enable"):
        raise ConfigError(
            "config.pbtxt: response_cache: expected enable: false, got enable: true; Triton's cache looks responses up "
            "by the input tensors alone, so that requests with other parameters (max_tokens, seed, lora_name ...) or "
            "other files behind the same URLs would get them as well. vLLM's prefix caching is on by default"
        )
