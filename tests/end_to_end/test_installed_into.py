"""A Triton that is there already: vllm_custom is installed into it, serves from it, and leaves no trace."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.client import Client
from tests.support.shapes import picture
from tests.support.triton_tree import make_tree, snapshot
from tools.installer import environment, into
from tools.installer.environment import Environment
from tools.installer.into import InstallOptions
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

PICTURE = picture(25_001, (224, 224), count=1)


@dataclass(frozen=True)
class Installed(Environment):
    """The environment's Python with another tritonserver."""

    root: Path

    @property
    def triton(self) -> Path:
        return self.root


def test_it_serves_from_a_tree_like_a_containers(tmp_path: Path) -> None:
    found = environment.current()
    root = make_tree(found, tmp_path / "opt/tritonserver")
    before = snapshot(root)
    options = InstallOptions(root, python=sys.executable, stand_in=True)
    assert into.install(options) == 0
    server = TritonServer(
        DEFAULT_REPOSITORY,
        environment=Installed(found.folder, found.flavour, root),
        backends=root / "backends",
        models=["shapes_vl"],
        log=tmp_path / "server.log",
    )
    with server:
        client = Client(server.http_url, server.metrics_url)
        image = base64.b64encode(PICTURE.encoded()).decode()
        answer = client.generate("shapes_vl", text_input="Describe the image.", image=[image], temperature=0)
        assert (answer.status, answer.text) == (200, PICTURE.answer())
    assert f"{root}/backends/vllm_custom" in server.log_text()
    assert into.uninstall(options) == 0
    assert contents(snapshot(root)) == contents(before)


def contents(found: dict[str, tuple[int, int, bytes]]) -> dict[str, tuple[int, bytes]]:
    """Modes and contents, without what the stub's Python wrote beside Triton's own module."""
    return {name: (mode, content) for name, (mode, _, content) in found.items() if "__pycache__" not in name}
