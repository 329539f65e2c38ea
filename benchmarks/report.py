"""Results as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = Mapping[str, Any]


def write_json(path: Path, rows: Sequence[Row], **facts: Any) -> None:
    """Write all rows so far; called after each cell, so that an interrupted run keeps what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def medians(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per cell and target: the median of each figure over the rounds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["cell"], row["target"]), []).append(row)
    merged = []
    for (cell, target), members in groups.items():
        figures = {key: median(member[key] for member in members) for key in members[0] if _is_number(members[0][key])}
        merged.append({"cell": cell, "target": target, "rounds": len(members), **figures})
    return merged


def table(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], baseline: str) -> str:
    """Markdown: medians per cell and target, with the ratio of tokens/s to the target ``baseline``."""
    merged = medians(rows)
    base = {row["cell"]: row["tokens_per_second"] for row in merged if row["target"] == baseline}
    lines = [f"| cell | target | {' | '.join(columns)} | ratio |", "| --- " * (len(columns) + 3) + "|"]
    for row in merged:
        ratio = f"{row['tokens_per_second'] / base[row['cell']]:.2f}" if row["cell"] in base else ""
        cells = " | ".join(show(row) for show in columns.values())
        lines.append(f"| {row['cell']} | {row['target']} | {cells} | {ratio} |")
    return "\n".join(lines)


def number(key: str, digits: int = 0) -> Callable[[Row], str]:
    return lambda row: f"{row[key]:,.{digits}f}"


def milliseconds(*keys: str) -> Callable[[Row], str]:
    return lambda row: " / ".join(f"{row[key] * 1000:.1f}" for key in keys)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
