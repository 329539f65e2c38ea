"""A finding with the way to fix it, and the table of findings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Status(str, Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    status: Status
    found: str
    fix: str = ""


Checks = Iterator[Check]


def failed(checks: Sequence[Check]) -> int:
    """How many of them fail."""
    return sum(check.status is Status.FAIL for check in checks)


def table(checks: Sequence[Check]) -> str:
    """One line per check, and under it how to fix it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status.value:<5} {check.name:<{width}}  {check.found}")
        if check.fix:
            lines.append(f"{'':<5} {'':<{width}}  fix: {check.fix}")
    return "\n".join(lines)
