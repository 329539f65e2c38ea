"""What tritonserver's options say to those who start it."""

import pytest

from tools.installer import triton_options


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "http://127.0.0.1:8000"),
        (["--http-port=9000", "--http-address=0.0.0.0"], "http://127.0.0.1:9000"),
        (["--http-port", "9001", "--http-address", "::"], "http://[::1]:9001"),
        (["--http-address=ipv6:::1"], "http://[::1]:8000"),
        (["--http-address=ipv6:::"], "http://[::1]:8000"),
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


def test_each_service_is_told_an_ipv6_address_in_its_own_form() -> None:
    assert triton_options.listening("grpc", "::1") == "[::1]"
    assert triton_options.listening("http", "::1") == triton_options.listening("metrics", "::1") == "ipv6:::1"
    assert triton_options.listening("grpc", "127.0.0.1") == triton_options.listening("http", "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "service", "address"),
    [
        ([], "grpc", "0.0.0.0"),
        (["--grpc-address=[::1]"], "grpc", "::1"),
        (["--http-address=ipv6:::1"], "metrics", "::1"),
        (["--http-address=10.0.0.5", "--metrics-address=10.0.0.6"], "metrics", "10.0.0.6"),
    ],
)
def test_what_a_service_listens_on(arguments: list[str], service: str, address: str) -> None:
    assert triton_options.address(arguments, service, "0.0.0.0") == address


def test_where_grpc_is_reached() -> None:
    assert triton_options.reached([], "grpc") == "127.0.0.1"
    assert triton_options.reached(["--grpc-address=0.0.0.0"], "grpc") == "127.0.0.1"
    assert triton_options.reached(["--grpc-address=[::]"], "grpc") == "[::1]"
