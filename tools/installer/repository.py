"""A model repository as far as `doctor` reads it: config.pbtxt, model.json, and the weights they point to."""

import json
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.installer.inspection import Inspection, inspect


@dataclass(frozen=True)
class Model:
    """One model: a folder with config.pbtxt."""

    folder: Path
    inspection: Inspection

    @classmethod
    def of(cls, folder: Path) -> "Model":
        """One model, read with this Python."""
        return cls(folder, inspect([folder])[0])

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def parameters(self) -> dict[str, str]:
        """Those of config.pbtxt."""
        given: dict[str, dict[str, str]] = self.inspection.config.get("parameters", {})
        return {key: value.get("string_value", "") for key, value in given.items()}

    @property
    def is_ensemble(self) -> bool:
        return self.inspection.config.get("platform") == "ensemble"

    @property
    def steps(self) -> list[str]:
        """The models that an ensemble calls; none for other models."""
        scheduling: dict[str, list[dict[str, str]]] = self.inspection.config.get("ensemble_scheduling", {})
        return [step.get("model_name", "") for step in scheduling.get("step", [])]

    @property
    def is_ours(self) -> bool:
        return self.inspection.config.get("backend") in ("vllm_custom", "vllm")

    @cached_property
    def version_folder(self) -> Path | None:
        """The newest version, which Triton loads by default."""
        versions = [path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit()]
        return max(versions, key=lambda path: int(path.name)) if versions else None

    @cached_property
    def engine_args(self) -> dict[str, Any]:
        """model.json. Raises OSError or ValueError where it cannot be read."""
        loaded = json.loads((self.version_folder or self.folder / "1").joinpath("model.json").read_text())
        if not isinstance(loaded, dict):
            raise ValueError("model.json is not a JSON object")
        return loaded

    @cached_property
    def weights(self) -> Path | None:
        """The folder of the weights; None for a name on a model hub."""
        value = str(self.engine_args.get("model", ""))
        folder = (self.version_folder or self.folder / "1") / value
        # A hub's name has one slash at most, and no folder of that name lies here.
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", value) is not None and not folder.exists()
        return None if hub or not value else folder

    @cached_property
    def hf_config(self) -> dict[str, Any]:
        """config.json of the weights; empty where there is none."""
        file = self.weights / "config.json" if self.weights else None
        if file is None or not file.is_file():
            return {}
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return loaded

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's part of config.json."""
        for key in ("text_config", "llm_config", "language_config"):
            part = self.hf_config.get(key)
            if isinstance(part, dict):
                return {**self.hf_config, **part}
        return self.hf_config


def models_of(repository: Path, python: Path | str = sys.executable, backend: Path | None = None) -> list[Model]:
    """Every folder with a config.pbtxt; the arguments are those of :func:`inspect`."""
    folders = [path for path in sorted(repository.iterdir()) if (path / "config.pbtxt").is_file()]
    found = inspect(folders, python, *([backend] if backend else [])) if folders else []
    return [Model(folder, inspection) for folder, inspection in zip(folders, found, strict=True)]
