"""A server of several processes, which says which of them answers. Options are those of the frontend."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.options import ServerOptions, add_server_arguments, server_arguments
from vllm_custom_frontend.serve import serve
from vllm_custom_frontend.workers import is_worker


def _app() -> Starlette:
    metrics = Metrics(several=is_worker())

    async def who(request: Request) -> Response:
        metrics.disconnects.inc()
        await asyncio.sleep(float(request.query_params.get("seconds", 0)))
        return JSONResponse(os.getpid())

    async def shown(request: Request) -> Response:
        return Response(metrics.text())

    made = Starlette(routes=[Route("/", who), Route("/metrics", shown)])
    made.state.metrics = metrics
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_server_arguments(parser)
    options = ServerOptions(**server_arguments(parser, parser.parse_args()))
    serve(lambda _: _app(), options, "tests.support.fake_worker", sys.argv[1:], supervised=options.workers > 1)
