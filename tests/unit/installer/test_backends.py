"""The backends folder."""

import os
from pathlib import Path

import pytest

from tools.installer import backends
from tools.installer.console import BuildError
from tools.installer.environment import Environment


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "backends"
    for name in ("vllm", "vllm_custom"):
        (folder / name / "__pycache__").mkdir(parents=True)
        (folder / name / "model.py").write_text(name)
    kernel = folder / backends.KERNEL
    bridge = folder / "vllm" / backends.KERNEL_COPY
    for place, text in ((kernel, "the kernel"), (bridge, "in a checkout")):
        place.mkdir(parents=True)
        (place / "__init__.py").write_text(text)
    (kernel / "errors.py").touch()
    (folder / "not_a_backend").mkdir()
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "one.py").write_text("patch")
    monkeypatch.setattr(backends, "BACKEND_SOURCES", folder)
    monkeypatch.setattr(backends, "PATCHES", patches)
    (tmp_path / "frontend/vllm_custom_frontend").mkdir(parents=True)
    (tmp_path / "frontend/vllm_custom_frontend/app.py").write_text("frontend")
    monkeypatch.setattr(backends, "FRONTEND_SOURCES", tmp_path / "frontend")
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("sources")
def test_what_is_in_it(environment: Environment, tmp_path: Path) -> None:
    target = backends.assemble(environment, tmp_path / "build/backends")
    assert listing(target) == [
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
        "vllm/model.py",
        "vllm/vllm_backend_lib/kernel/__init__.py",
        "vllm/vllm_backend_lib/kernel/errors.py",
        "vllm_custom/model.py",
        "vllm_custom/patches/one.py",
        "vllm_custom/vllm_custom/kernel/__init__.py",
        "vllm_custom/vllm_custom/kernel/errors.py",
        "vllm_custom/vllm_custom_frontend/app.py",
    ]
    assert (target / "vllm/vllm_backend_lib/kernel/__init__.py").read_text() == "the kernel"
    assert os.access(target / "python/triton_python_backend_stub", os.X_OK)


def test_it_follows_the_sources_and_leaves_nothing_else_behind(
    environment: Environment, tmp_path: Path, sources: Path
) -> None:
    target = backends.assemble(environment, tmp_path / "build/backends")
    opened = (target / "vllm/model.py").open()
    (sources / "vllm/model.py").write_text("changed")
    (target / "vllm_custom/stale.py").touch()
    backends.assemble(environment, target)
    assert (target / "vllm/model.py").read_text() == "changed"
    assert not (target / "vllm_custom/stale.py").exists()
    assert [path.name for path in target.parent.iterdir()] == ["backends"]
    with opened:
        assert opened.read() == "vllm", "a running server keeps what it has opened"


@pytest.mark.usefixtures("sources")
def test_a_missing_stub_names_those_that_exist(environment: Environment, tmp_path: Path) -> None:
    stub = environment.triton / "python_backend_stubs/3.11"
    stub.rename(stub.with_name("3.9"))
    target = tmp_path / "build/backends"
    with pytest.raises(BuildError, match=r"no stub for Python 3\.11, only for 3\.9"):
        backends.assemble(environment, target)
    assert list(target.parent.iterdir()) == []
