"""Draw docs/images/processes.svg from the Mermaid source in docs/architecture.md: ``python -m tools.site.drawings``.

Needs npm, which fetches Mermaid, and Chromium. To be run when the source has changed; a test says so.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.site.hooks import CHECKOUT, DRAWING, MERMAID

SOURCE = CHECKOUT / "docs/architecture.md"
TARGET = CHECKOUT / "docs" / DRAWING
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PACKAGE = "mermaid@11"
_SCRIPT = "package/dist/mermaid.min.js"
# Text as SVG has it, and not as HTML inside of SVG: browsers alone show that.
_OPTIONS = {
    "startOnLoad": True,
    "theme": "neutral",
    "deterministicIds": True,
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False},
}
_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)


def source() -> str:
    """The Mermaid source of the page. Raises ValueError where the page has none."""
    found = MERMAID.search(SOURCE.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{SOURCE}: no mermaid fence")
    return found["source"]


def mark(text: str) -> str:
    """What an image made of the source ``text`` begins with."""
    return f"<!-- drawn by tools/site/drawings.py of {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def draw(text: str, browser: str, scratch: Path) -> str:
    """``text`` as SVG."""
    subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    (archive,) = scratch.glob("mermaid-*.tgz")
    with tarfile.open(archive) as packed:
        script = packed.extractfile(_SCRIPT)
        assert script is not None
        (scratch / "mermaid.js").write_bytes(script.read())
    page = scratch / "page.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="font-family: sans-serif"><pre class="mermaid">'
        f'{html.escape(text)}</pre><script src="mermaid.js"></script>'
        f"<script>mermaid.initialize({json.dumps(_OPTIONS)})</script>",
        encoding="utf-8",
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    shown = subprocess.run([*command, page.as_uri()], check=True, capture_output=True, text=True, timeout=120).stdout
    found = _SVG.search(shown)
    if found is None:
        raise ValueError(f"the browser drew nothing:\n{shown[:2000]}")
    return found[0].replace("<br>", "<br/>")


def main() -> int:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or shutil.which("npm") is None:
        print(f"needs npm and one of {', '.join(BROWSERS)} on PATH", file=sys.stderr)
        return 1
    text = source()
    with tempfile.TemporaryDirectory(prefix="vllm_custom-drawing-") as scratch:
        TARGET.write_text(mark(text) + draw(text, browser, Path(scratch)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
