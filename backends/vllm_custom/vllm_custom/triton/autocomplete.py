"""Fill in what config.pbtxt leaves out, and nothing else."""

from __future__ import annotations

from typing import Any

from vllm_custom.contract.table import INPUTS, OUTPUTS


def auto_complete(config: Any) -> Any:
    """Add the contract's missing tensors and the decoupled policy to ``config``; what the user wrote stays.

    ``config`` is Triton's ``ModelConfig`` of the python backend (``as_dict``, ``add_input``, ``add_output``,
    ``set_model_transaction_policy``). The batch size is left alone: unset is 0, which means that vLLM batches.
    """
    declared = config.as_dict()
    inputs = {tensor["name"] for tensor in declared["input"]}
    outputs = {tensor["name"] for tensor in declared["output"]}
    for spec in INPUTS:
        if spec.name not in inputs:
            config.add_input(spec.as_config(optional=True))
    for spec in OUTPUTS:
        if spec.name not in outputs:
            config.add_output(spec.as_config(optional=False))
    if not declared.get("model_transaction_policy"):
        config.set_model_transaction_policy({"decoupled": True})
    return config
