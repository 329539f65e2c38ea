"""The module that Triton loads. The logic is in the package vllm_custom next to this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

BACKEND_DIR = Path(__file__).parent
# In front of a wheel of vllm_custom in this Python, which may be of another version.
sys.path.insert(0, str(BACKEND_DIR))

import triton_python_backend_utils as pb_utils  # noqa: E402  (the paths above come first)

from vllm_custom.triton.autocomplete import auto_complete  # noqa: E402


class TritonPythonModel:
    """What Triton's stub instantiates, once per model instance."""

    # Whether the responses of a stream that wait are sent as one.
    merge = True

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        """Add the contract's tensors. In a process of its own, which needs neither vLLM nor the base backend."""
        return auto_complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine and the service; whatever this raises becomes Triton's load failure."""
        from vllm_custom import preflight

        preflight.check(args, Path(pb_utils.get_model_dir()), BACKEND_DIR)
        from vllm_custom.runtime import tuning

        with tuning.without_collections():  # what a start makes stays: going through it again and again takes seconds
            from vllm_custom.model import Model  # imports vLLM

            self._model = Model(args, BACKEND_DIR, pb_utils, merge=self.merge)

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the service and return; answers follow through the response senders."""
        for request in requests:
            self._model.submit(request)

    def is_ready(self) -> bool:
        """Asked by Triton 26.06 and later for the model's readiness; earlier ones ask nothing."""
        return self._model.ready

    def finalize(self) -> None:
        """Wait for the requests under way, then end everything."""
        self._model.close()
