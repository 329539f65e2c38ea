"""What can be wrong with a model before vLLM is imported, which takes seconds: a load that fails does so at once.

`build.py doctor` asks the same of models that are not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from vllm_custom import engine_args
from vllm_custom.base_backend import find_base
from vllm_custom.base_backend.keys import keys_of_base, without
from vllm_custom.contract.settings import Settings
from vllm_custom.kernel import devices, model_files, nodes
from vllm_custom.media.budget import check_budgets
from vllm_custom.media.sources.tls import client_context
from vllm_custom.openai.service import application_arguments
from vllm_custom.triton.autocomplete import check_response_cache


def check(args: Mapping[str, str], version_dir: Path, backend_dir: Path) -> None:
    """Read config.pbtxt's parameters and the files of the version folder.

    Args:
        args: of Triton's ``initialize``.
        version_dir: the folder of model.json.
        backend_dir: the folder of this backend.

    Raises:
        ConfigError: names the file, the key and what is expected.
    """
    model_config = json.loads(args["model_config"])
    keys = keys_of_base(model_config, backend_dir)
    model_config = without(model_config, keys.not_ours(model_config))
    check_response_cache(model_config)  # auto-complete does so too, but it may be switched off
    settings = Settings.from_model_config(model_config)
    check_budgets(settings)
    client_context(settings)
    application_arguments(settings, None)
    arguments = model_files.read_engine_args(version_dir)
    if known := engine_args.names_in_source():
        model_files.check_engine_args(arguments, known | keys.engine_arguments)
    devices.check(model_config, arguments)
    nodes.check(arguments)
    lora_enabled = model_files.lora_enabled(arguments)
    settings.read_chat_template(version_dir)
    settings.find_lora_dir(version_dir, enable_lora=lora_enabled)
    if lora_enabled:
        engine_args.load_loras(version_dir, required=not settings.lora_dir)
    find_base(backend_dir, settings.vllm_backend_dir)
