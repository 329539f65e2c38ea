"""Stored responses live in one model process each: the frontend finds it, and says so where it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.triton_servers import FakeTriton, Model, Reply, frontend, hang, serving, until

RESPONSES = "/v1/responses"


def keeping(name: str, *ids: str) -> Model:
    """A model with a store, which says who it is."""

    async def serve(asked: dict[str, Any]) -> Reply:
        path = asked["path"].partition("?")[0]
        wanted = path.split("/")[3] if path != RESPONSES else asked["body"].get("previous_response_id")
        if wanted is not None and wanted not in ids:
            return Reply(404, ('{"error": {"message": "not found"}}',))
        return Reply(200, (json.dumps({"by": name, "path": asked["path"], "method": asked["method"]}),))

    return Model(serve=serve)


async def find_all(client: Any, count: int) -> None:
    """Wait until the frontend knows so many models of servers: it serves as soon as it knows one."""

    async def known() -> bool:
        lines = (await client.get("/metrics")).body.decode().splitlines()
        usable = [line for line in lines if line.startswith("vllm_custom_frontend_endpoint_usable{")]
        return sum(float(line.rpartition(" ")[2]) for line in usable) == count

    await until(known)


@pytest.mark.parametrize(("wanted", "keeper"), [("a1", "first"), ("b1", "second"), ("c1", "third")])
async def test_a_stored_response_comes_from_the_server_that_keeps_it(wanted: str, keeper: str) -> None:
    first, second = (
        FakeTriton(m=keeping("first", "a1")),
        FakeTriton(m=keeping("second", "b1"), o=keeping("third", "c1")),
    )
    async with serving(first, second), frontend(first.address, second.address) as client:
        await find_all(client, 3)
        got = await client.get(f"{RESPONSES}/{wanted}?stream=false&starting_after=3")
        assert got.json == {
            "by": keeper,
            "path": f"{RESPONSES}/{wanted}?stream=false&starting_after=3",
            "method": "GET",
        }
        cancelled = await client.post(b"", f"{RESPONSES}/{wanted}/cancel")
        assert cancelled.json == {"by": keeper, "path": f"{RESPONSES}/{wanted}/cancel", "method": "POST"}


async def test_what_continues_a_response_goes_where_it_is() -> None:
    first, second = FakeTriton(m=keeping("first", "a1")), FakeTriton(m=keeping("second", "b1"))
    async with serving(first, second), frontend(first.address, second.address) as client:
        await find_all(client, 2)
        for wanted, keeper in (("a1", "first"), ("b1", "second")):
            answer = await client.post({"model": "m", "previous_response_id": wanted}, RESPONSES)
            assert answer.json["by"] == keeper
        answer = await client.post({"model": "m", "previous_response_id": "c1"}, RESPONSES)
        assert answer.status == 404
        answer = await client.post({"model": "m", "previous_response_id": "no/id"}, RESPONSES)
        assert answer.status == 404
        assert (await client.post({"model": "m", "previous_response_id": 5}, RESPONSES)).status == 404


async def test_what_nobody_keeps_is_not_found() -> None:
    first, second = FakeTriton(m=keeping("first")), FakeTriton(m=keeping("second"))
    async with serving(first, second), frontend(first.address, second.address) as client:
        assert (await client.get(f"{RESPONSES}/a1")).status == 404
        assert (await client.post(b"", f"{RESPONSES}/a1/cancel")).status == 404


async def test_a_server_that_does_not_answer_may_have_it() -> None:
    """Not found would be untrue, and a client would drop what it asks for."""
    well, hung = FakeTriton(m=keeping("first", "a1")), FakeTriton(o=Model(serve=hang))
    async with serving(well, hung), frontend(well.address, hung.address) as client:
        assert (await client.get("/health")).status == 200
        assert (await client.get(f"{RESPONSES}/b1")).status == 503


async def test_a_server_that_cannot_be_reached_may_have_it() -> None:
    well, gone = FakeTriton(m=keeping("first", "a1")), FakeTriton()
    async with serving(gone):
        address = gone.address
    async with serving(well), frontend(well.address, address) as client:
        assert (await client.get(f"{RESPONSES}/a1")).json["by"] == "first"
        answer = await client.get(f"{RESPONSES}/b1")
        assert (answer.status, answer.message) == (503, "a server that may have this response does not answer now")
        assert (await client.post({"model": "m", "previous_response_id": "b1"}, RESPONSES)).status == 503


async def test_one_server_answers_itself() -> None:
    only = FakeTriton(m=keeping("first", "a1"))
    async with serving(only), frontend(only.address) as client:
        assert (await client.get(f"{RESPONSES}/a1")).json["by"] == "first"
        assert (await client.get(f"{RESPONSES}/b1")).status == 404
        lines = (await client.get("/metrics")).body.decode()
    assert len(only.models["m"].asked) == 2
    assert 'vllm_custom_frontend_requests_total{path="/v1/responses/{id}",status="200"} 1.0' in lines
