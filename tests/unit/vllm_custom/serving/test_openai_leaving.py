"""What runs for a call of the OpenAI API ends when its client has gone, or its time is over.

vLLM's handlers wait for tasks of their own, which they end when they are told that the client has gone; where they are
cancelled before they hear of it, those tasks run on, and the engine with them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from tests.support.service_harness import Model, Sender, wait_until

CALL = json.dumps({"path": "/v1/chat/completions", "body": {"model": "model"}})


class Application:
    """Serves as vLLM's handlers do; counts what works for its requests."""

    def __init__(self) -> None:
        self.working = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        work, gone = asyncio.create_task(self._work()), asyncio.create_task(receive())
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()

    async def _work(self) -> None:
        self.working += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working -= 1


@pytest.mark.parametrize("how", ["timeout", "gone"])
def test_nothing_runs_on(how: str) -> None:
    engine, application = FakeEngine(TEXT_ONLY), Application()
    engine.application = application
    with Model(engine) as model:
        senders = [Sender() for _ in range(20)]
        for sender in senders:
            timeout = 300_000 if how == "timeout" else 0
            model.submit(text=None, openai_request=CALL, sender=sender, timeout_us=timeout)
        wait_until(lambda: application.working == len(senders))
        if how == "gone":
            for sender in senders:
                sender.cancelled = True
        for sender in senders:
            sender.wait()
        wait_until(lambda: application.working == 0, lambda: f"{application.working} run on")
        model.settle()
