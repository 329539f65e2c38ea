"""A tritonserver with models on the null engine, which makes tokens at a fixed rate and needs no core for it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.installer import backends, environment
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

_BACKENDS = Path(__file__).parent / "backends"


@dataclass(frozen=True)
class NullModel:
    """One model of the server.

    Attributes:
        fronts: instances that share its engine.
        backend: name of its backend.
        parameters: of config.pbtxt.
        versions: all of them are served.
    """

    fronts: int = 1
    backend: str = "vllm_custom"
    parameters: Mapping[str, object] = field(default_factory=dict)
    versions: tuple[int, ...] = (1,)

    def write(self, folder: Path, base: Path) -> None:
        """Write the model's folder; ``base`` is the folder of the null engine's backend."""
        shapes = DEFAULT_REPOSITORY / "shapes_vl/1"
        arguments = json.loads((shapes / "model.json").read_text())
        kept = {key: value for key, value in arguments.items() if "lora" not in key}
        for version in self.versions:
            (folder / str(version)).mkdir(parents=True)
            model_json = json.dumps(kept | {"model": str(shapes / arguments["model"])})
            (folder / str(version) / "model.json").write_text(model_json)
        config = f'backend: "{self.backend}"\ninstance_group [ {{ count: {self.fronts}, kind: KIND_MODEL }} ]\n'
        config += "version_policy { all { } }\n"
        parameters = dict(self.parameters)
        if self.backend != "null_base":
            parameters["VLLM_BACKEND_DIR"] = base
        config += "".join(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
        )
        (folder / "config.pbtxt").write_text(config)


@contextlib.contextmanager
def null_server(models: Mapping[str, NullModel], log: Path, env: Mapping[str, str]) -> Iterator[TritonServer]:
    """The server with ``models`` by name, all loaded.

    Args:
        models: name to model.
        log: of the server; its folder is made.
        env: further variables, as NULL_ENGINE_INTERVAL_MS.
    """
    found = environment.current()
    with tempfile.TemporaryDirectory() as scratch:
        folder = backends.assemble(found, Path(scratch) / "backends")
        for name in ("null_base", "vllm_custom_unmerged"):
            shutil.copytree(_BACKENDS / name, folder / name)
        for name, model in models.items():
            model.write(Path(scratch) / "models" / name, folder / "null_base")
        log.parent.mkdir(parents=True, exist_ok=True)
        # Each model can be loaded and unloaded while the others serve.
        server = TritonServer(
            Path(scratch) / "models", environment=found, backends=folder, log=log, env=dict(env), models=list(models)
        )
        with server:
            yield server
