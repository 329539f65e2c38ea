"""/v1/responses/{id}, cancel and background: as `vllm serve` with a store answers, through Triton and past it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.bodies import data_uri
from tests.support.frontend_process import DirectServer, Frontend, HttpApi
from tests.support.media_files import Files
from tests.support.servers import Loads, Repository, parameter
from tests.support.shapes import picture
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(600)

MODEL, RESPONSES = "storing", "/v1/responses"
LONG: dict[str, Any] = {"model": MODEL, "input": "2+3=", "max_output_tokens": 3000, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads, files: Files) -> None:
    config = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
    config += parameter("SHARE_ENGINE", "true") + parameter("OPENAI_STORED_RESPONSES", 3)
    config += parameter("MAX_INFLIGHT_REQUESTS", 2)
    repository.add(MODEL, config, repository.shapes_args())
    load(MODEL)


@pytest.fixture(scope="module")
def direct(model: None, triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectServer]:
    with DirectServer(tmp_path_factory.mktemp("direct") / "log", f"--server={triton.pid}") as made:
        yield made


@pytest.fixture(params=["frontend", "direct"])
def api(request: pytest.FixtureRequest) -> HttpApi:
    made: HttpApi = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def library(api: HttpApi) -> openai.OpenAI:
    return openai.OpenAI(base_url=api.base_url, api_key="none", max_retries=0)


def ended(library: openai.OpenAI, response_id: str) -> Any:
    """The response, once it has ended."""
    for _ in range(600):
        response = library.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        time.sleep(0.1)
    raise AssertionError("it never ended")


def test_a_stored_response_is_found_again_and_continued(library: openai.OpenAI) -> None:
    first = library.responses.create(model=MODEL, input="2+3=", temperature=0)
    assert library.responses.retrieve(first.id).output_text == first.output_text == "5"
    second = library.responses.create(model=MODEL, input="4+4=", temperature=0, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


def test_a_background_response_is_polled(library: openai.OpenAI) -> None:
    begun = library.responses.create(model=MODEL, input="2+3=", temperature=0, background=True)
    assert begun.status in ("queued", "in_progress")
    assert ended(library, begun.id).output_text == "5"


def test_a_background_response_is_cancelled(library: openai.OpenAI) -> None:
    begun = library.responses.create(**LONG, background=True)
    assert library.responses.cancel(begun.id).status == "cancelled"
    assert library.responses.retrieve(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        library.responses.cancel(begun.id)


def test_the_events_of_a_background_response_are_read_again(library: openai.OpenAI) -> None:
    events = list(library.responses.create(model=MODEL, input="2+3=", temperature=0, background=True, stream=True))
    response_id = events[-1].response.id  # type: ignore[union-attr]
    again = list(library.responses.retrieve(response_id, stream=True, starting_after=1))
    assert [event.type for event in again] == [event.type for event in events[2:]]


def test_the_events_of_a_cancelled_response_end(library: openai.OpenAI, api: HttpApi) -> None:
    """They would never, and hold the unloading of the model up."""
    with library.responses.create(**LONG, background=True, stream=True) as stream:
        response_id = next(iter(stream)).response.id  # type: ignore[union-attr]
    library.responses.cancel(response_id)
    answer = api.get(f"{RESPONSES}/{response_id}?stream=true")
    assert answer.status == 200
    assert "response.completed" not in answer.body.decode()


def test_background_work_counts_for_the_limit(library: openai.OpenAI) -> None:
    jobs = [library.responses.create(**LONG, background=True) for _ in range(2)]
    with pytest.raises(openai.InternalServerError, match="MAX_INFLIGHT_REQUESTS"):
        library.responses.create(model=MODEL, input="2+3=")
    for job in jobs:
        library.responses.cancel(job.id)
    for _ in range(100):
        try:
            assert library.responses.create(model=MODEL, input="2+3=").status == "completed"
            return
        except openai.InternalServerError:
            time.sleep(0.1)
    raise AssertionError("the places are not free again")


def test_the_oldest_responses_are_forgotten(library: openai.OpenAI) -> None:
    made = [library.responses.create(model=MODEL, input="2+3=", max_output_tokens=1).id for _ in range(4)]
    with pytest.raises(openai.NotFoundError, match="not found"):
        library.responses.retrieve(made[0])
    with pytest.raises(openai.NotFoundError, match="not found"):
        library.responses.create(model=MODEL, input="2+3=", previous_response_id=made[0])
    assert [library.responses.retrieve(name).id for name in made[1:]] == made[1:]


def test_images_of_earlier_requests_are_asked_for_again(library: openai.OpenAI) -> None:
    content: Any = [{"type": "input_image", "image_url": data_uri(picture(1).encoded(), "image/png"), "detail": "auto"}]
    first = library.responses.create(model=MODEL, input=[{"role": "user", "content": content}], max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="images, videos and audio of earlier requests"):
        library.responses.create(model=MODEL, input="2+3=", previous_response_id=first.id)


def test_each_door_has_a_store_of_its_own(frontend: Frontend, direct: DirectServer) -> None:
    made = frontend.post(RESPONSES, {"model": MODEL, "input": "2+3=", "max_output_tokens": 1}).json["id"]
    assert frontend.get(f"{RESPONSES}/{made}").status == 200
    assert direct.get(f"{RESPONSES}/{made}").status == 404
