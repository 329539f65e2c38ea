"""vLLM, torch, CUDA and the driver against each other, from what an installation leaves on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.installer import environment, torch_check
from tools.installer.checks import Check, Status


def site(folder: Path, wanted: str, torch: str, cuda: str | None) -> Path:
    metadata = folder / "vllm-0.32.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Name: vllm\nRequires-Dist: numpy\nRequires-Dist: torch=={wanted}\n")
    (folder / f"torch-{torch}.dist-info").mkdir()
    (folder / "torch").mkdir()
    value = f"'{cuda}'" if cuda else "None"
    (folder / "torch/version.py").write_text(f"__version__ = '{torch}'\ncuda: Optional[str] = {value}\n")
    return folder


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, cuda: str) -> None:
    tool = folder / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 550.1   Driver Version: 550.1   CUDA Version: {cuda}  |'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def examine(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in torch_check.examine(folder, "install again")}


def test_this_environment_is_consistent() -> None:
    found = list(torch_check.examine(environment.current().site_packages, ""))
    assert [check.status for check in found if check.name == "vLLM and torch"] == [Status.OK]


def test_another_torch_than_vllms(tmp_path: Path) -> None:
    check = examine(site(tmp_path, "2.13.0", "2.11.0+cu126", "12.6"))["vLLM and torch"]
    assert check.status is Status.FAIL
    assert check.found == "vLLM was built for torch 2.13.0, found 2.11.0+cu126"
    assert check.fix == "install again"


@pytest.mark.parametrize(("served", "status"), [("12.4", Status.FAIL), ("13.0", Status.OK), ("13.1", Status.OK)])
def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, status: Status) -> None:
    driver(tmp_path, monkeypatch, served)
    check = examine(site(tmp_path, "2.13.0", "2.13.0", "13.0"))["torch and driver"]
    assert check.status is status
    assert check.found == f"torch was built for CUDA 13.0, the driver serves up to {served}"


def test_a_cpu_build_asks_for_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "12.4")
    assert list(examine(site(tmp_path, "2.13.0", "2.13.0+cpu", None))) == ["vLLM and torch"]


def test_nothing_installed_is_for_others_to_say(tmp_path: Path) -> None:
    assert examine(tmp_path) == {}
