"""The contract with clients and operators: one table, and what derives from it."""

from vllm_custom.contract.table import CONFIG_PARAMETERS, INPUTS, OUTPUTS, REQUEST_PARAMETERS, VLLM_FIELDS

__all__ = ["CONFIG_PARAMETERS", "INPUTS", "OUTPUTS", "REQUEST_PARAMETERS", "VLLM_FIELDS"]
