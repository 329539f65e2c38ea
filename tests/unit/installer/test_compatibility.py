"""`compatibility`: which bases are run, what is read from pytest's report, and the table that it becomes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tools.installer import compatibility
from tools.installer.compatibility import BEGIN, END, Row, find_bases, read_outcome, read_rows, write_rows
from tools.installer.console import BuildError, Progress
from tools.installer.environment import Environment

pytestmark = pytest.mark.slow

HEADER = f"{Row(compatibility.COLUMNS)}\n{Row(('---',) * len(compatibility.COLUMNS))}\n"
EMPTY = f"Before.\n\n{BEGIN}\n{HEADER}{END}\n\nAfter.\n"
SUITE = """
import os
import pytest

def test_properties(record_testsuite_property):
    record_testsuite_property("hash", "0123456789abcdef")
    record_testsuite_property("vllm", "0.32.0")
    record_testsuite_property("patches", "a, b")

def test_base():
    assert os.path.basename(os.environ["VLLM_BACKEND_DIR"]) != "bad", "this | base is bad"

@pytest.fixture
def teardown():
    yield
    assert os.path.basename(os.environ["VLLM_BACKEND_DIR"]) != "bad"

def test_with_teardown(teardown): ...

@pytest.mark.skip
def test_skipped(): ...

@pytest.mark.skip(reason="needs vLLM 0.40: tea")
def test_tea(): ...

@pytest.mark.skip(reason="needs vLLM 0.40: tea")
def test_more_tea(): ...

@pytest.mark.skip(reason="needs vLLM 0.9: milk")
def test_milk(): ...
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    for name in ("good", "bad/src", "empty"):
        (folder / name).mkdir(parents=True)
    (folder / "good/model.py").touch()
    (folder / "bad/src/model.py").touch()
    return folder


def pytest_on(
    suite: Path, environment: Environment, progress: Progress, arguments: Sequence[str], variables: Mapping[str, str]
) -> int:
    """pytest itself on a small suite, in the place of the server tests."""
    report = [argument for argument in arguments if argument.startswith("--junitxml")]
    variables = {**variables, "VLLM_BACKEND_DIR": variables["VLLM_BACKEND_DIR"].removesuffix("/src")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(suite.parent),
        *report,
        str(suite),
    ]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False).returncode


def test_bases_are_the_stand_in_and_folders_with_model_py(sources: Path) -> None:
    assert list(find_bases(sources, [])) == ["stand-in", "bad", "good"]
    assert find_bases(sources, ["bad"]) == {"bad": (sources / "bad/src").resolve()}
    with pytest.raises(BuildError, match="has no r99"):
        find_bases(sources, ["r99"])


def test_each_base_becomes_a_row(sources: Path, tmp_path: Path, environment: Environment) -> None:
    suite, table = tmp_path / "test_suite.py", tmp_path / "table.md"
    suite.write_text(SUITE)
    table.write_text(EMPTY)

    def runner(*arguments: object) -> int:
        return pytest_on(suite, *arguments)  # type: ignore[arg-type]

    assert compatibility.run(environment, Progress(), sources, ["good"], table=table, runner=runner) == 0
    assert compatibility.run(environment, Progress(), sources, ["bad"], table=table, runner=runner) == 1
    bad, good = read_rows(table.read_text())
    lacking = "0.40: tea; 0.9: milk"
    run = ("`0123456789abcdef`", "0.32.0", "unknown", "3.11", "a b", "3 of 3 passed", lacking)
    assert good.cells == ("good", *run, "")
    assert (bad.counts, bad.cells[7]) == ("1 of 3 passed", lacking)
    assert bad.cells[8].startswith("test_base: AssertionError: this \\| base is bad")
    assert table.read_text().startswith("Before.\n")
    assert table.read_text().endswith("After.\n")


def test_a_row_replaces_its_own_and_leaves_the_others() -> None:
    def row(release: str, vllm: str, passed: str) -> Row:
        return Row((release, "`0`", vllm, "2.51", "3.11", "", passed, "", ""))

    text = write_rows(EMPTY, [row("r26.01", "0.31.0", "1 of 2 passed"), row("r26.01", "0.32.0", "1 of 2 passed")])
    text = write_rows(text, [row("r26.01", "0.32.0", "2 of 2 passed")])
    assert [(one.cells[2], one.cells[6]) for one in read_rows(text)] == [
        ("0.31.0", "1 of 2 passed"),
        ("0.32.0", "2 of 2 passed"),
    ]


def test_a_run_without_a_report_or_a_table_is_an_error(sources: Path, tmp_path: Path, environment: Environment) -> None:
    table = tmp_path / "table.md"
    table.write_text(EMPTY)
    with pytest.raises(BuildError, match="wrote no report about good"):
        compatibility.run(environment, Progress(), sources, ["good"], table=table, runner=lambda *_: 1)
    with pytest.raises(BuildError, match="has no table between"):
        write_rows("nothing", [])


def test_the_documents_table_can_be_read() -> None:
    rows = read_rows(compatibility.TABLE.read_text())
    assert all(len(row.cells) == len(compatibility.COLUMNS) for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def test_a_report_without_failures(tmp_path: Path) -> None:
    report = tmp_path / "r.xml"
    report.write_text('<testsuites><testsuite><testcase name="a"/></testsuite></testsuites>')
    outcome = read_outcome(report)
    assert (outcome.passed, outcome.failed, outcome.first_failure) == (1, 0, "")
