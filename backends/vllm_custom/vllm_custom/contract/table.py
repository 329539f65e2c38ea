"""All tables of the contract. Parsing, validation, auto-completion and docs/reference.md come from them."""

from vllm_custom.contract.config import CONFIG_PARAMETERS, PYTHON_BACKEND_PARAMETERS
from vllm_custom.contract.fields import VLLM_FIELDS
from vllm_custom.contract.request_parameters import REQUEST_PARAMETERS
from vllm_custom.contract.tensors import INPUTS, OUTPUTS

__all__ = ["CONFIG_PARAMETERS", "INPUTS", "OUTPUTS", "PYTHON_BACKEND_PARAMETERS", "REQUEST_PARAMETERS", "VLLM_FIELDS"]
