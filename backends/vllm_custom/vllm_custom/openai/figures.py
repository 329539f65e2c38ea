"""What a request took, as headers of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_custom.engine.figures import NOTED, Figures
from vllm_custom.openai.asgi import Application, Message, Receive, Send

# https://www.w3.org/TR/server-timing/ has milliseconds.
_TIMING = ("queue", "prefill", "first_token", "last_token")
_OTHERS = {
    "x-cached-tokens": "cached_tokens",
    "x-mean-acceptance-length": "mean_acceptance_length",
    "x-draft-acceptance-rate": "draft_acceptance_rate",
}


def with_figures(application: Application) -> Application:
    """``application``, whose answers say in their headers what the request took.

    The headers of a stream go out before it has taken anything.
    """

    async def noting(scope: Message, receive: Receive, send: Send) -> None:
        noted: list[Figures] = []

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start" and noted:
                headers = [(name.encode(), value.encode()) for name, value in headers_of(noted).items()]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        token = NOTED.set(noted)
        try:
            await application(scope, receive, send_with)
        finally:
            NOTED.reset(token)

    return noting


def headers_of(noted: Sequence[Figures]) -> dict[str, str]:
    """Of one answer; where it has several prompts, only the cached tokens of all say something of it."""
    together = Figures(cached_tokens=sum(each.cached_tokens or 0 for each in noted))
    known = (noted[0] if len(noted) == 1 else together).known()
    timing = [f"{name};dur={known[key] * 1000:.3f}" for name in _TIMING if (key := f"{name}_seconds") in known]
    headers = {header: f"{known[name]:.6g}" for header, name in _OTHERS.items() if name in known}
    return ({"server-timing": ", ".join(timing)} if timing else {}) | headers
