"""uv, which installs what is pinned several times as fast as pip, by pip's own configuration.

pip remains what is asked for: where uv cannot be had, fails, or does not know what pip is told, pip does the work.
"""

import ast
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.installer.paths import home

# pip's settings, and uv's variables for them.
_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "constraint": "UV_CONSTRAINT",
    "no-cache-dir": "UV_NO_CACHE",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
_CACHE = "cache-dir"
_SEPARATORS = {"UV_FIND_LINKS": ","}
# What has no say in which package is installed.
_WITHOUT_EFFECT = {
    "break-system-packages",
    "disable-pip-version-check",
    "format",
    "no-color",
    "no-input",
    "no-python-version-warning",
    "no-warn-script-location",
    "progress-bar",
    "quiet",
    "require-virtualenv",
    "retries",
    "root-user-action",
    "user",
    "verbose",
}
# Later ones go before earlier ones.
_SECTIONS = ("global", "install", ":env:")
# Options of pip that uv has not.
_OF_PIP_ONLY = ("--retries", "--timeout")


def command(program: str, python: Path, arguments: Sequence[str]) -> list[str] | None:
    """uv's command for what `pip install` is given; None where it does not know one of them."""
    if any(argument in _OF_PIP_ONLY for argument in arguments):
        return None
    return [program, "pip", "install", "--python", str(python), "--no-progress", *arguments]


def environment(python: Path, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The environment variables for uv; None where pip is told what uv does not know.

    Args:
        python: whose pip is asked for its configuration.
        environ: the variables that pip has.
    """
    asked = [str(python), "-m", "pip", "config", "list"]
    said = subprocess.run(asked, capture_output=True, text=True, env=dict(environ), check=False)
    found = None if said.returncode else variables(said.stdout)
    return None if found is None else {**environ, **found}


def variables(listed: str) -> dict[str, str] | None:
    """Variables for what `pip config list` says; None where there is a setting without one."""
    settings: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if equals and section in settings:
            settings[section][key] = str(ast.literal_eval(value))
    found = {}
    for section in _SECTIONS:
        for key, value in settings[section].items():
            if key == _CACHE:  # next to pip's own
                found["UV_CACHE_DIR"] = str(Path(value) / "uv")
            elif key in _VARIABLES:
                variable = _VARIABLES[key]
                found[variable] = _SEPARATORS.get(variable, " ").join(value.split())
            elif key not in _WITHOUT_EFFECT:
                return None
    # pip takes the best version of all indexes.
    return {**found, "UV_INDEX_STRATEGY": "unsafe-best-match"}


def kept() -> str | None:
    """The program: from PATH, or the one that an earlier installation has fetched."""
    found = shutil.which("uv")
    if found:
        return found
    program = folder() / "bin/uv"
    return str(program) if program.is_file() else None


def folder() -> Path:
    """Where it is kept."""
    return home() / "uv"
