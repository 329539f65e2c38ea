"""The base class with our answers to the two questions that it asks while it starts the engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from vllm_custom.base_backend.adapter import with_current_hooks
from vllm_custom.kernel import devices


class Hooks(Protocol):
    """What a model says about its engine."""

    def engine_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """The engine arguments for those that the base has read from model.json."""

    def visible_devices(self, arguments: Mapping[str, Any]) -> str | None:
        """What CUDA_VISIBLE_DEVICES has to be; None where it stays as it is."""

    def lora_adapters(self, arguments: Mapping[str, Any]) -> dict[str, str] | None:
        """Adapter name to path; None where the engine runs without LoRA."""


def extended(base: type, hooks: Hooks) -> type:
    """A subclass of ``base``, the TritonPythonModel of a vLLM backend, that asks ``hooks``."""
    official: Any = with_current_hooks(base)

    class ExtendedModel(official):  # type: ignore[misc]  # a class that is found at run time
        vllm_engine_config: dict[str, Any]

        def _validate_device_config(self) -> None:
            self.vllm_engine_config = hooks.engine_arguments(self.vllm_engine_config)
            visible = hooks.visible_devices(self.vllm_engine_config)
            if visible is None:
                super()._validate_device_config()
            else:  # the base would take Triton's number of a GPU for the machine's
                os.environ[devices.VARIABLE] = visible

        def _setup_lora(self) -> None:
            found = hooks.lora_adapters(self.vllm_engine_config)
            self.enable_lora = found is not None
            self.lora_repository = found or {}
            self.supported_loras = list(self.lora_repository)

    return ExtendedModel
