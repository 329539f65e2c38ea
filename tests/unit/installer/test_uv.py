"""uv in pip's place: told what pip is told, and left out where it does not know that."""

from pathlib import Path

import pytest

from tools.installer import uv
from tools.installer.console import Progress
from tools.installer.pip import Pip

BEST = {"UV_INDEX_STRATEGY": "unsafe-best-match"}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", {}),
        ("global.index-url='https://index.example/simple'", {"UV_DEFAULT_INDEX": "https://index.example/simple"}),
        (
            "global.extra-index-url='https://a.example/s\\nhttps://b.example/s'",
            {"UV_INDEX": "https://a.example/s https://b.example/s"},
        ),
        ("global.find-links='/one /two'", {"UV_FIND_LINKS": "/one,/two"}),
        ("global.timeout='5'\ninstall.timeout='6'\n:env:.timeout='7'", {"UV_HTTP_TIMEOUT": "7"}),
        (":env:.cert='/c.pem'\nglobal.cert='/d.pem'", {"SSL_CERT_FILE": "/c.pem"}),
        (
            "global.constraint='/c.txt'\nglobal.trusted-host='x.example'\nglobal.progress-bar='off'",
            {"UV_CONSTRAINT": "/c.txt", "UV_INSECURE_HOST": "x.example"},
        ),
        ("freeze.timeout='9'\ndownload.platform='x'", {}),
        ("global.cache-dir='/big'", {"UV_CACHE_DIR": "/big/uv"}),
    ],
)
def test_pips_settings_are_uvs(listed: str, expected: dict[str, str]) -> None:
    assert uv.variables(listed) == expected | BEST


@pytest.mark.parametrize("listed", ["global.client-cert='/c.pem'", "install.no-binary=':all:'", ":env:.unheard='1'"])
def test_a_setting_that_uv_does_not_know_leaves_the_work_to_pip(listed: str) -> None:
    assert uv.variables(listed) is None


def test_options_of_pip_alone_leave_the_work_to_pip() -> None:
    assert uv.command("uv", Path("/python"), ("--no-deps", "--retries", "1", "x")) is None
    command = uv.command("uv", Path("/python"), ("--no-deps", "x==1"))
    assert command == ["uv", "pip", "install", "--python", "/python", "--no-progress", "--no-deps", "x==1"]


def made(folder: Path, python: str, program: str | None) -> Pip:
    for name, script in (("python", python), ("uv", program)):
        if script is not None:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
    found = str(folder / "uv") if program is not None else None
    return Pip(folder / "python", folder / "pip.log", Progress(), {"PATH": "/usr/bin:/bin"}, found)


# pip with an index of its own.
PYTHON = """[ "$3" = config ] && echo "global.index-url='https://index.example/simple'" || echo by pip"""


def test_uv_installs_from_pips_index(tmp_path: Path) -> None:
    pip = made(tmp_path, PYTHON, 'echo "by uv from $UV_DEFAULT_INDEX"')
    assert pip.try_install(["x==1"])
    assert "by uv from https://index.example/simple" in pip.log.read_text()


@pytest.mark.parametrize("program", ["exit 1", None])
def test_where_uv_fails_or_is_not_there_pip_installs(tmp_path: Path, program: str | None) -> None:
    pip = made(tmp_path, PYTHON, program)
    assert pip.try_install(["x==1"])
    assert "by pip" in pip.log.read_text()


def test_uv_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CUSTOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "home/uv/bin").mkdir(parents=True)
    fetching = made(tmp_path, f"touch {tmp_path}/home/uv/bin/uv; echo fetched >> {tmp_path}/times", None)
    assert fetching.with_uv().uv == fetching.with_uv().uv == str(tmp_path / "home/uv/bin/uv")
    assert (tmp_path / "times").read_text() == "fetched\n"
    monkeypatch.setenv("VLLM_CUSTOM_HOME", str(tmp_path / "other"))
    assert made(tmp_path, "exit 1", None).with_uv().uv is None
