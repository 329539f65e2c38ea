"""Serve an application with uvicorn, in one process or in several."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import uvicorn
from starlette.types import ASGIApp

from vllm_custom_frontend import workers
from vllm_custom_frontend.options import ServerOptions


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
        make_app(lambda: server.should_exit),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,  # ours says more
        timeout_graceful_shutdown=options.drain_seconds,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        server_header=False,
    )
    server = uvicorn.Server(config)
    sockets = None
    if workers.is_worker():
        workers.end_with_parent()
        sockets = [workers.bound_socket(options.host, options.port)]
    server.run(sockets)
    if not server.started:  # as uvicorn.run
        sys.exit(3)
