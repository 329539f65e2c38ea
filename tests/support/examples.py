"""Runs the files in examples/, which people copy, as they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tools.installer import environment
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer

EXAMPLES = CHECKOUT / "examples"
IMAGE = CHECKOUT / "docs/images/shapes.png"
KINDS = ("bytes", "url", "stream", "tool", "batch")
_LINE = re.compile(rf"^({'|'.join(KINDS)}):", re.MULTILINE)
_SECONDS = 120


def run_example(name: str, triton: TritonServer, model: str, **variables: str) -> dict[str, str]:
    """What the example prints, by the kind of its requests.

    Args:
        name: of the file.
        triton: the server.
        model: its model.
        variables: further environment variables of the example.
    """
    path = EXAMPLES / name
    command = ["bash" if path.suffix == ".sh" else str(environment.current().python), str(path)]
    given = {"TRITON_HTTP": urlsplit(triton.http_url).netloc, "TRITON_GRPC": triton.grpc_url, "MODEL": model}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", **given, **variables}
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _, *found = _LINE.split(done.stdout)
    return {kind: text.strip() for kind, text in zip(found[::2], found[1::2], strict=True)}


def files() -> list[Path]:
    """All examples."""
    return sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh"))
