"""Serve an application with uvicorn, in one process or in several."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from vllm_custom_frontend import workers
from vllm_custom_frontend.options import ServerOptions


class _Server(uvicorn.Server):
    """Says that it is about to end some time before it takes no more requests."""

    def __init__(self, config: uvicorn.Config, delay_seconds: float) -> None:
        super().__init__(config)
        self._delay_seconds = delay_seconds
        self._stopping = False

    @property
    def is_stopping(self) -> bool:
        """Whether it is about to end."""
        return self._stopping or self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal that ends it, wait; on the next one do not."""
        if self._stopping or not (self._delay_seconds and self.started):
            super().handle_exit(sig, frame)
            return
        self._stopping = True
        timer = threading.Timer(self._delay_seconds, self._exit)
        timer.daemon = True
        timer.start()

    def _exit(self) -> None:
        self.should_exit = True  # which the server looks at ten times a second


def serve(
    make_app: Callable[[Callable[[], bool]], ASGIApp],
    options: ServerOptions,
    module: str,
    arguments: Sequence[str],
    *,
    supervised: bool,
) -> None:
    """Serve until SIGTERM or SIGINT; open requests then have ``drain_seconds`` to end. Ends the process where it fails.

    Args:
        make_app: makes the application in each process; gets what says whether the process is about to end.
        options: of the server.
        module: what ``python -m`` runs in each of several processes.
        arguments: of the command line.
        supervised: whether another process above starts this one again where it ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if supervised and not workers.is_worker():
        try:
            above = workers.Workers(module, arguments, options)
        except OSError as error:
            sys.exit(f"cannot listen on {options.host} port {options.port}: {error.strerror}")
        sys.exit(above.run())
    config = uvicorn.Config(
        make_app(lambda: server.is_stopping),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,  # ours says more
        timeout_graceful_shutdown=options.drain_seconds,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        server_header=False,
    )
    server = _Server(config, options.shutdown_delay_seconds)
    sockets = None
    if workers.is_worker():
        workers.end_with_parent()
        sockets = [workers.bound_socket(options.host, options.port)]
    server.run(sockets)
    if not server.started:  # as uvicorn.run
        sys.exit(3)
