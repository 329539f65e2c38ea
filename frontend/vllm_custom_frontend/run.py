"""Serve the application with uvicorn."""

from __future__ import annotations

import logging

import uvicorn

from vllm_custom_frontend.app import make_app
from vllm_custom_frontend.options import Options


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; open requests then have ``drain_seconds`` to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        make_app(options),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,  # ours says more
        timeout_graceful_shutdown=options.drain_seconds,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        server_header=False,
    )
