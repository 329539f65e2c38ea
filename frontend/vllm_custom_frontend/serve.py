"""Serve an application with uvicorn, in one process or in several."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vllm_custom_frontend import logs, workers
from vllm_custom_frontend.connections import ConnectionLimits, limited
from vllm_custom_frontend.keys import is_this_machine_only
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.options import OptionError, ServerOptions

_log = logging.getLogger("vllm_custom_frontend")


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
    make_app: Callable[[Callable[[], bool]], Starlette],
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
    logs.begin(options.log_format, options.log_level)
    if not options.access_log:
        logging.getLogger(f"{_log.name}.access").setLevel(logging.WARNING)  # also of what is refused before a request
    if not (workers.is_worker() or options.api_keys or is_this_machine_only(options.host)):
        _log.warning("%s can be reached from other machines, and no keys are asked for (--api-key-file)", options.host)
    if supervised and not workers.is_worker():
        try:
            above = workers.Workers(module, arguments, options)
        except OSError as error:
            sys.exit(f"cannot listen on {options.host} port {options.port}: {error.strerror}")
        sys.exit(above.run())
    _take_all_descriptors()
    try:
        config = config_of(make_app(lambda: server.is_stopping), options)
    except OptionError as error:
        sys.exit(str(error))
    server = _Server(config, options.shutdown_delay_seconds)
    sockets = None
    if workers.is_worker():
        workers.end_with_parent()
        sockets = [workers.bound_socket(options.host, options.port)]
    server.run(sockets)
    if not server.started:  # as uvicorn.run
        sys.exit(3)


def config_of(app: Starlette, options: ServerOptions) -> uvicorn.Config:
    """How uvicorn serves ``app``, which is of :func:`vllm_custom_frontend.web.application`."""
    metrics: Metrics = app.state.metrics
    limits = ConnectionLimits(
        options.max_header_bytes, options.max_headers, options.header_timeout_seconds, options.body_timeout_seconds
    )
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=limited(limits, lambda status: metrics.refused.labels(str(status)).inc()),
        log_config=None,
        access_log=False,  # ours says more
        timeout_keep_alive=options.keep_alive_seconds,
        timeout_graceful_shutdown=options.drain_seconds,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        server_header=False,
    )


def _take_all_descriptors() -> None:
    """Each connection needs one, and the usual limit of 1024 is low for that; the process may raise it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
