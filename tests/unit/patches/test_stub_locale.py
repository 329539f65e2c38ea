"""The patch that gives Triton's stub a UTF-8 locale, in processes whose locale is C as the stub's is."""

import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patches import stub_locale
from tools.installer.paths import CHECKOUT

TEXT = "图"
READ = "import pathlib; print(ascii(pathlib.Path(sys.argv[1]).read_text()))"


def as_in_the_stub(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Python in the C locale, without its own ways out of it (PEP 538 and PEP 540)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", f"import sys; {code}", *arguments],
        cwd=CHECKOUT,
        env=kept | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_without_it_a_file_beyond_ascii_cannot_be_read(file: str) -> None:
    result = as_in_the_stub(READ, file)
    assert result.returncode
    assert "UnicodeDecodeError: 'ascii' codec" in result.stderr


def test_with_it_the_file_is_read(file: str) -> None:
    result = as_in_the_stub(
        f"from patches import stub_locale as p; assert p.applies('any', 'any'); p.apply(); {READ}", file
    )
    assert result.stdout == f"{TEXT!a}\n", result.stderr


def test_it_is_not_for_a_process_that_it_has_mended() -> None:
    result = as_in_the_stub(
        "from patches import stub_locale as p; p.apply(); print(p.applies('any', 'any')); p.apply()"
    )
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize(
    ("encoding", "expected"), [("ANSI_X3.4-1968", True), ("ISO-8859-1", True), ("UTF-8", False), ("utf8", False)]
)
def test_it_is_for_every_locale_but_utf_8(encoding: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda do_setlocale: encoding)
    assert stub_locale.applies("any", "any") is expected
