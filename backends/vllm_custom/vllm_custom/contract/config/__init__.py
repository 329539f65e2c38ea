"""The parameters of config.pbtxt: each is declared once, as a field with type, default, limits and meaning.

The key in config.pbtxt is the field's name in capitals.
"""

from vllm_custom.contract.config.limits import LimitParameters
from vllm_custom.contract.config.media import MediaParameters
from vllm_custom.contract.config.model import ModelParameters
from vllm_custom.contract.declare import config_specs

# Keys that Triton's python backend itself reads from `parameters`.
PYTHON_BACKEND_PARAMETERS = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})


class ConfigParameters(LimitParameters, MediaParameters, ModelParameters):
    """All of them."""


CONFIG_PARAMETERS = config_specs(ModelParameters, MediaParameters, LimitParameters)

__all__ = ["CONFIG_PARAMETERS", "PYTHON_BACKEND_PARAMETERS", "ConfigParameters"]
