"""Workflows, templates, hooks and aliases: they can be read, and what they call exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import yaml

import build
from tools.installer import command_table, containers, locks
from tools.installer.paths import CHECKOUT
from vllm_custom.base_backend import loader

GITHUB = CHECKOUT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *GITHUB.rglob("*.md")]
NAMES = {command.name for command in command_table.COMMANDS}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from read(path)["jobs"].values()


def runs(path: Path) -> list[str]:
    """Every line that a workflow hands to the shell."""
    steps = [step for job in jobs(path) for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def is_installed(module: str) -> bool:
    """Looks at sys.path only: setuptools's finder would not go on once asked for pip."""
    package, *rest = module.split(".")
    spec = PathFinder.find_spec(package)
    if spec is None or not rest:
        return spec is not None
    return any(Path(folder, *rest).with_suffix(".py").is_file() for folder in spec.submodule_search_locations or ())


def problems_of(line: str) -> Iterator[str]:
    """What a line calls and this checkout does not have."""
    for command in re.findall(r"\bbuild\.py (\w+)", line):
        if command not in NAMES:
            yield f"build.py has no command {command}"
    for module in re.findall(r"\bpython3? -m ([\w.]+)", line):
        if not is_installed(module):
            yield f"no module {module}"
    for name in re.findall(r"(?<![\w/$])((?:\.ci|locks|docs|tests|tools)/[\w./-]+)", line):
        if not (CHECKOUT / name).exists():
            yield f"no file {name}"
    for script in re.findall(r"(?:^|\s)(\.ci/\w+)", line):
        if not os.access(CHECKOUT / script, os.X_OK):
            yield f"{script} cannot be run"


@pytest.mark.parametrize(
    "line", ["python3 build.py nothing", "python -m no_such_module", "cat locks/none.txt", ".ci/none"]
)
def test_what_does_not_exist_is_found(line: str) -> None:
    assert list(problems_of(line))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
class TestWorkflows:
    def test_every_command_exists(self, path: Path) -> None:
        lines = runs(path)
        assert lines
        assert [problem for line in lines for problem in problems_of(line)] == []

    def test_every_job_is_bounded_and_may_only_read(self, path: Path) -> None:
        assert read(path)["permissions"] == {"contents": "read"}
        for job in jobs(path):
            assert job["timeout-minutes"] <= 240

    def test_every_action_has_a_version(self, path: Path) -> None:
        used = [step["uses"] for job in jobs(path) for step in job["steps"] if "uses" in step]
        assert used
        assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", name)] == []

    def test_every_step_does_something(self, path: Path) -> None:
        assert [step for job in jobs(path) for step in job["steps"] if ("uses" in step) == ("run" in step)] == []


def test_the_tests_run_on_both_pythons_as_ci_does() -> None:
    job = read(GITHUB / "workflows/tests.yml")["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_compatibility_runs_by_itself() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert read(GITHUB / "workflows/compatibility.yml")[True]["schedule"]


def test_older_pairs_that_are_tested_are_those_of_containers() -> None:
    pairs = read(GITHUB / "workflows/compatibility.yml")["jobs"]["older"]["strategy"]["matrix"]["include"]
    known = {(f"r{row.release}", row.vllm) for row in containers.CONTAINERS.values()}
    assert {(pair["release"], pair["vllm"]) for pair in pairs} <= known
    assert {pair["vllm"] for pair in pairs} <= set(locks.OLDER)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_is_one(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in asked}) == len(asked)
    assert all(item["attributes"]["label"] for item in asked)


def test_the_bug_form_asks_for_the_doctor_and_the_line_of_the_load() -> None:
    asked = {item.get("id"): item for item in read(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "doctor --json" in asked["doctor"]["attributes"]["description"]
    assert build.parser().parse_args(["doctor", "--json"]).json
    # What it shows is what the loader writes.
    assert asked["base"]["attributes"]["placeholder"].startswith("base: ")
    assert 'f"base: ' in Path(loader.__file__).read_text(encoding="utf-8")
    for name in ("doctor", "base"):
        assert asked[name]["validations"]["required"] is True


def test_dependabot_looks_at_the_workflows() -> None:
    updates = read(GITHUB / "dependabot.yml")["updates"]
    assert "github-actions" in [entry["package-ecosystem"] for entry in updates]


def hooks() -> dict[str, Any]:
    """By their names."""
    return {hook["id"]: hook for repo in read(CHECKOUT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}


def test_every_hook_can_be_started() -> None:
    """The tools of the hooks are those of the environment."""
    assert hooks().keys() >= {"trailing-whitespace", "yaml", "toml", "large-files", "codespell"}
    for hook in hooks().values():
        python, flag, module, *_ = shlex.split(hook["entry"])
        assert (python, flag, hook["language"]) == ("python", "-m", "system")
        assert is_installed(module), module


@pytest.mark.parametrize(
    ("hook", "patterns"),
    [("yaml", ("*.yml", ".*.yaml", ".github/**/*.yml", "deploy/**/*.y*ml")), ("toml", ("*.toml",))],
)
def test_what_a_hook_reads_can_be_read(hook: str, patterns: tuple[str, ...]) -> None:
    """It refused files with several YAML documents, as Kubernetes has them, and with it all of a commit."""
    files = [str(path) for pattern in patterns for path in CHECKOUT.glob(pattern)]
    assert files
    _, *arguments = shlex.split(hooks()[hook]["entry"])
    checked = subprocess.run([sys.executable, *arguments, *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_make_has_six_aliases_of_commands() -> None:
    text = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    targets = {name for line in re.findall(r"^([\w ]+):", text, re.MULTILINE) for name in line.split()}
    assert targets == set(phony[1].split())
    assert len(targets) == 6
    assert targets - {"unit"} <= NAMES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (CHECKOUT / name).is_file()] == []
