"""The command line of the direct server, as far as it is not the frontend's."""

from __future__ import annotations

import pytest
from vllm_custom_direct.options import parse


def test_what_is_given() -> None:
    options = parse(["--server=17", "--triton-http=http://[::1]:8000", "--host=[::1]"])
    assert (options.server, options.triton_http, options.host) == (17, "http://[::1]:8000", "::1")
    assert parse([]).server is None


@pytest.mark.parametrize("server", ["-1", "0", "triton"])
def test_a_process_that_cannot_be_is_refused(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--server={server}"])
    assert "--server: expected a whole number from 1 to" in capsys.readouterr().err
