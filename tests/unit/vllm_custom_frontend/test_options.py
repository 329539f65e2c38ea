"""The frontend's command line."""

from pathlib import Path

import pytest

from vllm_custom_frontend.options import Options, parse
from vllm_custom_frontend.triton import CONNECTION_OPTIONS

# tritonserver's default for --grpc-http2-min-recv-ping-interval-without-data.
TRITON_MIN_PING_INTERVAL_MS = 300_000


@pytest.fixture(autouse=True)
def no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CUSTOM_API_KEYS", raising=False)


def test_defaults() -> None:
    assert parse([]) == Options(triton=("127.0.0.1:8001",))


def test_keys_come_from_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("b\n\n c \n")
    monkeypatch.setenv("VLLM_CUSTOM_API_KEYS", "d,,e ")
    assert parse(["--api-key=a", f"--api-key-file={file}"]).api_keys == {"a", "b", "c", "d", "e"}


def test_the_connection_is_pinged_no_more_often_than_triton_allows() -> None:
    """Else Triton ends it, and with it a request that has been silent for some minutes (too_many_pings)."""
    assert dict(CONNECTION_OPTIONS)["grpc.keepalive_time_ms"] > 1.05 * TRITON_MIN_PING_INTERVAL_MS


def test_several_servers_and_sizes() -> None:
    options = parse(["--triton=a:1", "--triton", "b:2", "--max-body-mib=2", "--cors-origin=*"])
    assert (options.triton, options.max_body_bytes, options.cors_origins) == (("a:1", "b:2"), 2 * 1024**2, ("*",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=99999"], "expected a port from 0 to 65535"),
        (["--max-body-mib=0"], "at least 1"),
        (["--request-timeout=-1"], "0 for none"),
        (["--tls-key=key.pem"], "must be given together"),
        (["--api-key-file=/nowhere/keys"], "cannot be read"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err
