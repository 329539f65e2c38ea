"""Which paths are routes, parameters of paths included; the frontend agrees."""

from __future__ import annotations

import pytest

from vllm_custom.contract.routes import FORM_PATHS, OPENAI_PATHS, is_one_of, is_path
from vllm_custom_frontend import routes


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/responses", "/v1/responses"),
        ("/v1/responses/resp_1a-b", "/v1/responses/{id}"),
        ("/v1/responses/resp_1/cancel", "/v1/responses/{id}/cancel"),
        ("/v1/models", "/v1/models"),
        ("/v1/responses/", None),
        ("/v1/responses/a/b", None),
        ("/v1/responses/a/cancel/b", None),
        ("/v1/responses/a%2Fb", None),
        ("/v1/responses/{id}", None),
        ("/v1/responses/" + "a" * 257, None),
        ("/v1/load_lora_adapter", None),
    ],
)
def test_the_route_of_a_path(path: str, route: str | None) -> None:
    assert is_one_of(path, OPENAI_PATHS) is (route is not None)
    assert routes.route_of(path) == route
    assert routes.response_of(path) == (path.split("/")[3] if route and "{id}" in route else None)
    if route is not None:
        assert is_path(path, route)


def test_the_frontend_has_the_same_routes() -> None:
    assert routes.OPENAI_PATHS == OPENAI_PATHS
    assert routes.FORM_PATHS == FORM_PATHS


def test_more_routes_may_have_parameters() -> None:
    more = ["/v1/things/{thing_id}/parts/{part}"]
    assert is_one_of("/v1/things/a/parts/7", more)
    assert not is_one_of("/v1/things/a/parts/", more)
    assert not is_one_of("/v1/things/a/../parts/7", more)
