"""What tritonserver's options say to those who start it."""

import pytest

from tools.installer import triton_options


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "http://127.0.0.1:8000"),
        (["--http-port=9000", "--http-address=0.0.0.0"], "http://127.0.0.1:9000"),
        (["--http-port", "9001", "--http-address", "::"], "http://[::1]:9001"),
        (["--http-port=1", "--http-port=2"], "http://127.0.0.1:2"),
        (["--http-address=10.0.0.5"], "http://10.0.0.5:8000"),
        (["--allow-http=0"], ""),
    ],
)
def test_where_http_is(arguments: list[str], url: str) -> None:
    assert triton_options.http_url(arguments) == url


def test_restricted_apis_need_their_header() -> None:
    arguments = [
        "--http-restricted-api=model-repository,health:key=secret=x",
        "--http-restricted-api=inference:other=y",
    ]
    assert triton_options.headers(arguments, "model-repository") == {"key": "secret=x"}
    assert triton_options.headers(arguments, "model-config") == {}
