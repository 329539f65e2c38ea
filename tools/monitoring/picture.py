"""Draw the panels from what a Prometheus has recorded.

pip install matplotlib
python -m tools.monitoring.picture http://127.0.0.1:9090 --minutes 3 --out docs/images/monitoring.svg
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from tools.monitoring.panels import PANELS, Panel, concrete
from tools.monitoring.prometheus import Prometheus

_COLUMNS = 4
_UNITS = {"s": "s", "reqps": "per second", "percentunit": "share", "bytes": "bytes", "short": ""}


def draw(server: Prometheus, start: float, end: float, window: str, out: Path) -> None:
    """All panels into one file.

    Args:
        server: has recorded.
        start: in seconds since 1970.
        end: the same.
        window: of rates, as PromQL has it.
        out: the file; its ending says which kind.
    """
    rows = -(-len(PANELS) // _COLUMNS)
    figure, axes = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.4 * rows), layout="constrained")
    for axis, panel in zip(axes.flat, PANELS, strict=False):
        _panel(axis, panel, server, start, end, window)
    for axis in axes.flat[len(PANELS) :]:
        axis.axis("off")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def _panel(axis: Any, panel: Panel, server: Prometheus, start: float, end: float, window: str) -> None:
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.set_ylabel(_UNITS[panel.unit], fontsize=7)
    for query in panel.queries:
        for line in server.lines(concrete(query.expression, window=window), start, end, 1.0):
            legend = query.legend
            for name in re.findall(r"\{\{(\w+)\}\}", query.legend):
                legend = legend.replace(f"{{{{{name}}}}}", line.labels.get(name, ""))
            axis.plot([at - start for at, _ in line.points], [value for _, value in line.points], lw=1, label=legend)
    axis.tick_params(labelsize=6)
    axis.set_ylim(bottom=0)
    if axis.lines:
        axis.legend(fontsize=5, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--window", default="15s", help="of rates")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    now = time.time()
    draw(Prometheus(options.url), now - 60 * options.minutes, now, options.window, options.out)


if __name__ == "__main__":
    main()
