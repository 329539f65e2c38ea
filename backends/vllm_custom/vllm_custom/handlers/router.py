"""Which handler serves a request."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_custom.contract.names import DOCUMENTS, OPENAI_REQUEST, QUERIES
from vllm_custom.handlers.base import Handler
from vllm_custom.request import Tensors


@dataclass(frozen=True)
class Router:
    """The handlers of one model: by the inputs of a request, else ``main``."""

    main: Handler
    openai: Handler
    scoring: Handler | None = None

    def handler(self, tensors: Tensors) -> Handler:
        """The handler for a request with these inputs."""
        if OPENAI_REQUEST in tensors:
            return self.openai
        if self.scoring is not None and (QUERIES in tensors or DOCUMENTS in tensors):
            return self.scoring
        return self.main
