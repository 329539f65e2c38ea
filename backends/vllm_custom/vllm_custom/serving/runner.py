"""Takes Triton's requests and gives each of them a life of its own."""

from __future__ import annotations

from vllm_custom.request.context import RequestContext
from vllm_custom.runtime.async_utils import call_on
from vllm_custom.serving.life import RequestLife, Surroundings


class Runner:
    """Serves the requests of one model."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings

    def submit(self, request: object) -> None:
        """Take one request. Called by Triton's execute thread; returns soon, and every outcome reaches the sender.

        Raises:
            Exception: Triton gives no way to answer this request.
        """
        base = self._with.base
        life = RequestLife(self._with, RequestContext.of(self._client_id(request)))
        # Before the request can end: the base's shutdown waits for those that have begun.
        call_on(base.event_loop, base.request_started)
        try:
            life.responder = self._with.transport.open(
                request, life.request_id, before_final=life.before_final, after_final=life.after_final
            )
        except BaseException:
            call_on(base.event_loop, base.request_finished)
            raise
        life.begin(request)

    def _client_id(self, request: object) -> str:
        try:
            return self._with.transport.client_id(request)
        except Exception:  # an id that is no text; the request gets a random one
            return ""
