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


def test_comments_blank_lines_and_a_byte_order_mark_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\ufeff# of the front office\n\n  # old: z\na\n\tb#1\n", encoding="utf-8")
    assert parse([f"--api-key-file={file}"]).api_keys == {"a", "b#1"}


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# only\n\n # comments\n", b"\xef\xbb\xbf"])
def test_a_file_without_keys_does_not_open_the_server(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(SystemExit):
        parse([f"--api-key-file={file}", "--api-key=other"])
    assert "keys has no key" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_an_empty_variable_or_option_does_not_open_the_server(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("VLLM_CUSTOM_API_KEYS", value)
        with pytest.raises(SystemExit):
            parse([])
        assert "$VLLM_CUSTOM_API_KEYS is set and has no key" in capsys.readouterr().err
    if "," not in value:
        with pytest.raises(SystemExit):
            parse(["--api-key=a", f"--api-key={value}"])
        assert "--api-key: expected a key, got none" in capsys.readouterr().err


def test_a_file_of_keys_that_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(SystemExit):
        parse([f"--api-key-file={file}"])
    assert "keys: expected UTF-8, got byte 0xe9 at position 3" in capsys.readouterr().err


def test_the_connection_is_pinged_no_more_often_than_triton_allows() -> None:
    """Else Triton ends it, and with it a request that has been silent for some minutes (too_many_pings)."""
    assert dict(CONNECTION_OPTIONS)["grpc.keepalive_time_ms"] > 1.05 * TRITON_MIN_PING_INTERVAL_MS


def test_files_for_tls_are_looked_at_before_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, missing = tmp_path / "text.pem", tmp_path / "missing.pem"
    text.write_text("no certificate")
    for arguments, message in (
        ([f"--tls-certificate={text}", f"--tls-key={missing}"], f"--tls-key: {missing} cannot be read: No such file"),
        ([f"--tls-certificate={text}", f"--tls-key={text}"], "expected a certificate in PEM and its key"),
        ([f"--triton-ca={missing}"], f"--triton-ca: {missing} cannot be read: No such file"),
    ):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert message in capsys.readouterr().err


def test_ipv6_addresses() -> None:
    assert parse(["--host=[::1]", "--triton=[::1]:8001"]).host == "::1"


def test_several_servers_and_sizes() -> None:
    options = parse(["--triton=a:1", "--triton", "b:2", "--max-body-mib=2", "--cors-origin=*"])
    assert (options.triton, options.max_body_bytes, options.cors_origins) == (("a:1", "b:2"), 2 * 1024**2, ("*",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=99999"], "expected a port from 0 to 65535"),
        (["--max-body-mib=0"], "expected a whole number from 1 to"),
        (["--max-headers=many"], "expected a whole number from 1 to"),
        (["--request-timeout=-1"], "from 0, for none"),
        (["--request-timeout=nan"], "from 0, for none"),
        (["--header-timeout=soon"], "from 0, for none"),
        (["--drain-seconds=1" + "0" * 30], "expected a whole number from 1 to"),
        (["--port=http"], "expected a port from 0 to 65535"),
        (["--host="], "expected an address, got none"),
        (["--triton=gpu"], "expected HOST:PORT"),
        (["--triton=[]:8001"], "expected an IPv6 address in brackets"),
        (["--triton=[gpu]:8001"], "expected an IPv6 address in brackets"),
        (["--triton=gpu:99999"], "a port from 1 to 65535"),
        (["--triton=::1:8001"], "an IPv6 address in brackets"),
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
