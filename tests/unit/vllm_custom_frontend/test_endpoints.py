"""The frontend before servers that hang, break, refuse and come back."""

import asyncio
import base64
import json
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.support.forms import form
from tests.support.triton_servers import (
    EVENTS,
    HASTY,
    QUICK,
    FakeTriton,
    Model,
    Reply,
    Wire,
    frontend,
    hang,
    reply,
    serving,
    until,
)
from vllm_custom_frontend import health

# How long something may take that must not wait for anybody: far below every time limit of the other side.
SOON = 30.0
PATIENT = replace(QUICK, refresh_timeout=1)
# Every limit of time is far beyond the test: what hangs is never found out.
SLOW = replace(QUICK, refresh_timeout=60)

LATE = {"probe": hang, "serve": hang}


def asked(*tritons: FakeTriton, model: str = "m") -> list[int]:
    return [len(triton.models[model].asked) for triton in tritons]


async def usable(client: Any) -> dict[str, float]:
    """The endpoints that /metrics shows, by address."""
    lines = (await client.get("/metrics")).body.decode().splitlines()
    shown = [line for line in lines if line.startswith("vllm_custom_frontend_endpoint_usable{")]
    return {line.split('server="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in shown}


async def test_a_model_that_hangs_holds_up_nobody_else() -> None:
    """Neither requests to others, nor /health, /metrics and /v1/models: before, all waited forever."""
    hung, well = FakeTriton(m=Model(**LATE)), FakeTriton(other=Model(), stuck=Model(**LATE))
    async with serving(hung, well), frontend(hung.address, well.address, timing=SLOW) as client:
        began = time.monotonic()
        for _ in range(20):
            assert (await client.post({"model": "other"})).status == 200
            assert (await client.get("/health")).status == 200
            assert (await client.get("/metrics")).status == 200
            assert [card["id"] for card in (await client.get("/v1/models")).json["data"]] == ["other"]
        assert time.monotonic() - began < SOON


async def test_a_server_that_hangs_holds_up_nobody_else() -> None:
    hung, well = FakeTriton(m=Model()), FakeTriton(other=Model())
    hung.index_hangs = True
    async with serving(hung, well), frontend(hung.address, well.address, timing=SLOW) as client:
        began = time.monotonic()
        assert (await client.post({"model": "other"})).status == 200
        assert (await client.get("/health")).status == 200
        assert time.monotonic() - began < SOON


async def test_a_model_that_hangs_is_found_out_and_gets_no_requests() -> None:
    hung, well = FakeTriton(m=Model()), FakeTriton(m=Model())
    async with serving(hung, well), frontend(hung.address, well.address, timing=HASTY) as client:
        await until(lambda: _health(client, 200))
        hung.models["m"].probe = hung.models["m"].serve = hang
        await until(lambda: _is(client, hung, 0.0))
        before = asked(hung)
        for _ in range(10):
            assert (await client.post({"model": "m"})).status == 200
        assert asked(hung) == before
        hung.models["m"].probe, hung.models["m"].serve = None, reply()
        await until(lambda: _is(client, hung, 1.0))


async def _is(client: Any, triton: FakeTriton, value: float) -> bool:
    return (await usable(client)).get(triton.address) == value


async def test_where_every_server_hangs_the_answer_is_503_at_once() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, timing=HASTY) as client:
        await until(lambda: _health(client, 200))
        triton.models["m"].probe = hang
        await until(lambda: _health(client, 503))
        answer = await client.post({"model": "m"})
        assert (answer.status, answer.json["error"]["type"]) == (503, "ServiceUnavailableError")
        assert int(answer.headers["retry-after"]) >= 1
        assert asked(triton) == [0]
        # Its name stays known: another model gets nothing that was meant for it.
        assert (await client.get("/v1/models")).json["data"] == []


async def _health(client: Any, status: int) -> bool:
    return (await client.get("/health")).status == status


async def test_a_model_that_streams_is_no_model_that_hangs() -> None:
    """A probe may be late where much is under way."""

    async def serve(_: dict[str, Any]) -> Reply:
        return Reply(200, tuple(f"data: {number}\n\n" for number in range(3)), EVENTS)

    triton = FakeTriton(m=Model(serve=serve))
    async with serving(triton), frontend(triton.address, timing=PATIENT) as client:
        await until(lambda: _health(client, 200))
        triton.models["m"].probe = hang
        deadline = time.monotonic() + 2.2 * PATIENT.refresh_timeout
        while time.monotonic() < deadline:
            assert (await client.post({"model": "m"})).status == 200
            assert (await client.get("/health")).status == 200


async def test_a_request_ends_at_its_time_limit_also_where_triton_hangs() -> None:
    triton = FakeTriton(m=Model(serve=hang))
    async with serving(triton), frontend(triton.address, request_timeout_seconds=0.1) as client:
        answer = await client.post({"model": "m"})
        assert (answer.status, answer.json["error"]["type"]) == (504, "TimeoutError")
        assert "--request-timeout" in answer.message


async def test_a_dead_engine_does_not_attract_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers at once, so it always has the fewest open requests."""
    monkeypatch.setattr(health, "_FIRST_REST_SECONDS", 60.0)  # it is not tried again within the test, however slow

    async def work(_: dict[str, Any]) -> Reply:
        await asyncio.sleep(0.02)
        return Reply()

    for status in (503, 500):
        dead, well = FakeTriton(m=Model(serve=reply(status))), FakeTriton(m=Model(serve=work))
        async with serving(dead, well), frontend(dead.address, well.address) as client:
            for endpoint in (dead, well):
                await until(lambda endpoint=endpoint: _is(client, endpoint, 1.0))
            answers = await asyncio.gather(*(client.post({"model": "m"}) for _ in range(8)))
            for _ in range(30):
                answers += await asyncio.gather(*(client.post({"model": "m"}) for _ in range(4)))
            good = sum(answer.status == 200 for answer in answers)
            assert good == len(answers) if status == 503 else good >= len(answers) - 8
            assert asked(dead)[0] <= 8


async def test_health_says_that_an_engine_is_dead_and_that_it_is_back() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        assert (await client.get("/health")).status == 200
        triton.models["m"].probe = triton.models["m"].serve = reply(503)
        await until(lambda: _health(client, 503))
        triton.models["m"].probe, triton.models["m"].serve = None, reply()
        await until(lambda: _health(client, 200))


async def test_health_says_so_where_only_requests_fail() -> None:
    """A list of models needs no engine, so a probe alone may find nothing."""
    triton = FakeTriton(m=Model(serve=reply(500)))
    async with serving(triton), frontend(triton.address) as client:
        # A bad request is refused before the engine would be needed.
        for status in (500, 500, 400, 500):
            triton.models["m"].serve = reply(status)
            assert (await client.post({"model": "m"})).status == status
        assert (await client.get("/health")).status == 503
        # It is asked all the same: there is nobody else.
        triton.models["m"].serve = reply()
        assert (await client.post({"model": "m"})).status == 200
        assert (await client.get("/health")).status == 200


@pytest.mark.parametrize("status", [503, 429])
async def test_a_refusal_is_tried_elsewhere(status: int) -> None:
    full = [FakeTriton(m=Model(serve=reply(status, '{"error": {"message": "full"}}'))) for _ in range(2)]
    well = FakeTriton(m=Model())
    async with serving(*full, well), frontend(*(one.address for one in (*full, well))) as client:
        await until(lambda: _all_found(client, 3))
        for _ in range(5):
            assert (await client.post({"model": "m"})).status == 200


async def _all_found(client: Any, count: int) -> bool:
    return sum((await usable(client)).values()) == count


@pytest.mark.parametrize("status", [503, 429])
async def test_a_refusal_of_all_is_relayed_and_says_when_to_come_again(status: int) -> None:
    text = '{"error": {"message": "MAX_INFLIGHT_REQUESTS: 8 requests are under way"}}'
    tritons = [FakeTriton(m=Model(serve=reply(status, text))) for _ in range(2)]
    async with serving(*tritons), frontend(*(one.address for one in tritons)) as client:
        await until(lambda: _all_found(client, 2))
        answer = await client.post({"model": "m"})
        assert (answer.status, answer.body.decode(), answer.headers["retry-after"]) == (status, text, "1")
        assert asked(*tritons) == [1, 1]
        # Full is not broken.
        for _ in range(5):
            await client.post({"model": "m"})
        assert (await client.get("/health")).status == 200


async def test_the_models_own_retry_after_is_kept() -> None:
    triton = FakeTriton(m=Model(serve=reply(503, retry_after="17")))
    async with serving(triton), frontend(triton.address) as client:
        assert (await client.post({"model": "m"})).headers["retry-after"] == "17"


async def test_a_stream_that_has_begun_is_not_tried_elsewhere() -> None:
    async def serve(_: dict[str, Any]) -> Reply:
        await first.stop_soon()
        return Reply(200, ("data: 0\n\n",), EVENTS)

    first = Stopping(serve)
    second = FakeTriton(m=Model())
    async with serving(first, second), frontend(first.wire.address, second.address) as client:
        await until(lambda: _all_found(client, 2))
        answer = await client.post({"model": "m"}, idempotency_key="k")
        assert answer.status == 200
        events = answer.body.decode().split("\n\n")
        assert events[0] == "data: 0"
        assert "connection to the Triton server broke" in json.loads(events[1][6:])["error"]["message"]
        assert events[2] == "data: [DONE]"
        assert asked(second) == [0]


class Stopping(FakeTriton):
    """A server whose connections break under a request, some moments after ``serve`` has begun."""

    def __init__(self, serve: Any = None) -> None:
        super().__init__(m=Model(serve=serve or self._die))
        self.wire: Wire
        self._cut: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> None:
        await super().start(port)
        self.wire = Wire(self.port)
        await self.wire.start()

    async def stop(self) -> None:
        await self.wire.cut()
        await super().stop()

    async def stop_soon(self) -> None:
        async def cut() -> None:
            await asyncio.sleep(0.1)  # for the first part of an answer to arrive
            await self.wire.cut()

        self._cut = asyncio.ensure_future(cut())

    async def _die(self, asked: dict[str, Any]) -> Reply:
        await self.wire.cut()
        return await hang(asked)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for response in super().ModelStreamInfer(requests, context):
            yield response
        if self._cut is not None:
            await asyncio.Event().wait()


async def test_a_request_that_ends_its_server_does_not_visit_the_others() -> None:
    tritons = [Stopping() for _ in range(3)]
    async with serving(*tritons), frontend(*(one.wire.address for one in tritons)) as client:
        await until(lambda: _all_found(client, 3))
        answer = await client.post({"model": "m"})
        assert (answer.status, answer.json["error"]["type"]) == (502, "BadGatewayError")
        assert sum(asked(*tritons)) == 1


async def test_a_client_may_allow_one_second_try() -> None:
    tritons = [Stopping() for _ in range(3)]
    async with serving(*tritons), frontend(*(one.wire.address for one in tritons)) as client:
        await until(lambda: _all_found(client, 3))
        assert (await client.post({"model": "m"}, idempotency_key="1")).status == 502
        assert sum(asked(*tritons)) == 2
    broken, well = Stopping(), FakeTriton(m=Model())
    async with serving(broken, well), frontend(broken.wire.address, well.address) as client:
        await until(lambda: _all_found(client, 2))
        assert (await client.post({"model": "m"}, idempotency_key="1")).status == 200


async def test_an_error_of_triton_is_not_tried_elsewhere_and_not_repeated() -> None:
    """Its text may be the traceback of a model."""
    text = "Stub process is not healthy. At: /opt/model.py(7): execute"
    tritons = [FakeTriton(m=Model(serve=reply(error=text))) for _ in range(2)]
    async with serving(*tritons), frontend(*(one.address for one in tritons)) as client:
        await until(lambda: _all_found(client, 2))
        answer = await client.post({"model": "m"}, x_request_id="mine")
        assert (answer.status, sum(asked(*tritons))) == (502, 1)
        assert "request mine" in answer.message
        assert "model.py" not in answer.message


async def test_a_model_that_was_unloaded_is_asked_elsewhere() -> None:
    gone = FakeTriton(m=Model(serve=reply(error="Request for unknown model: 'm' has no available versions")))
    well = FakeTriton(m=Model())
    async with serving(gone, well), frontend(gone.address, well.address) as client:
        await until(lambda: _all_found(client, 2))
        assert (await client.post({"model": "m"})).status == 200
        assert asked(gone, well) == [1, 1]


async def test_a_server_that_was_stopped_is_left_out_and_found_again() -> None:
    coming, well = FakeTriton(m=Model()), FakeTriton(m=Model())
    async with serving(well):
        await coming.start()
        port = coming.port
        async with frontend(coming.address, well.address) as client:
            await until(lambda: _all_found(client, 2))
            await coming.stop()
            statuses = [(await client.post({"model": "m"})).status for _ in range(5)]
            # One may have been sent while the connection closed: nobody can say whether it has begun.
            assert statuses.count(200) >= 4
            assert set(statuses) <= {200, 502}
            await until(lambda: _is(client, coming, 0.0))
            await coming.start(port)
            await until(lambda: _is(client, coming, 1.0))
        await coming.stop()


async def test_a_model_on_a_server_that_is_gone_is_unavailable_and_not_unknown() -> None:
    gone, well = FakeTriton(m=Model()), FakeTriton(other=Model(), third=Model())
    async with serving(well):
        await gone.start()
        async with frontend(gone.address, well.address) as client:
            await until(lambda: _answers(client, "m", 200))
            await gone.stop()
            await until(lambda: _is(client, gone, 0.0))
            answer = await client.post({"model": "m"})
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert (await client.post({"model": "nobody"})).status == 404


async def _answers(client: Any, model: str, status: int) -> bool:
    return (await client.post({"model": model})).status == status


async def test_an_ambiguous_name_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    triton = FakeTriton(shapes=Model(adapters=("zh",)), zh=Model())
    caplog.set_level(logging.WARNING, "vllm_custom_frontend")
    async with serving(triton), frontend(triton.address) as client:
        await until(lambda: _answers(client, "shapes", 200))
        before = triton.probes["zh"]

        async def probed_again() -> bool:
            return triton.probes["zh"] > before + 3

        await until(probed_again)
        assert (await client.post({"model": "zh"})).status == 200
        assert asked(triton, model="zh") == [1]
    assert [record.message for record in caplog.records if "ambiguous" in record.message] == [
        "the name zh is ambiguous: it means the model, not the adapter of the model shapes"
    ]


async def test_bodies_in_any_unicode_encoding_reach_the_model_in_utf8() -> None:
    triton = FakeTriton(m=Model(), other=Model())
    document = {"model": "m", "text": "caf\u00e9"}
    async with serving(triton), frontend(triton.address) as client:
        for encoding in ("utf-8-sig", "utf-16", "utf-32-be"):
            text = json.dumps(document, ensure_ascii=False).encode(encoding)
            assert (await client.post(text)).status == 200
        assert [one["body"] for one in triton.models["m"].asked] == [document] * 3
        refused = await client.post(json.dumps(document, ensure_ascii=False).encode("latin-1"))
        assert (refused.status, refused.json["error"]["type"]) == (400, "BadRequestError")
        assert refused.message.startswith("body: expected JSON in UTF-8, UTF-16 or UTF-32, got byte 0xe9")


async def test_limits_of_a_request() -> None:
    triton = FakeTriton(m=Model(), other=Model())
    async with serving(triton), frontend(triton.address, max_body_values=100) as client:
        assert (await client.post({"model": "m", "prompt": [1] * 90})).status == 200
        refused = await client.post({"model": "m", "prompt": [1] * 200})
        assert (refused.status, "--max-body-values" in refused.message) == (413, True)
        unknown = await client.post({"model": "x" * 1_000_000})
        assert (unknown.status, len(unknown.body) < 1000) == (404, True)
        assert (await client.post({"model": "\ud800"})).status == 404
        long = await client.post({"model": "m"}, traceparent="0" * 5000)
        assert (long.status, long.message) == (431, "header traceparent: expected at most 4096 characters, got 5000")
        assert len((await client.get("/v1/models/" + "x" * 5000)).body) < 1000


async def test_a_form_travels_as_json_with_its_file_as_base64() -> None:
    data = bytes(range(256)) * 2000
    triton = FakeTriton(m=Model(), other=Model())
    content_type, body = form(data, ("model", "m"), ("stream", "true"))
    async with serving(triton), frontend(triton.address, max_body_values=100) as client:
        answer = await client.post(body, "/v1/audio/transcriptions", content_type=content_type)
        assert answer.status == 200
        refused = await client.post(body[:-9], "/v1/audio/translations", content_type=content_type)
        assert refused.status == 400
        assert "closing boundary" in refused.message
    (sent,) = triton.models["m"].asked
    assert sent["body"] == {"model": "m", "stream": "true", "file": base64.b64encode(data).decode()}
