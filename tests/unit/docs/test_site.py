"""The site of docs/ builds without a warning, and is whole without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.installer import site
from tools.installer.console import BuildError
from tools.installer.paths import CHECKOUT
from tools.site import drawings, hooks

SOURCES = sorted((CHECKOUT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", *site.build_arguments(folder)],
        cwd=CHECKOUT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.html")):
        yield str(path.relative_to(folder)), path.read_text(encoding="utf-8")


def test_every_page_is_there_in_its_languages(built: Path) -> None:
    for source in SOURCES:
        path = source.relative_to(CHECKOUT / "docs").with_suffix("")
        language, name = ("zh/", path.with_suffix("")) if path.suffix == ".zh" else ("", path)
        folder = name.parent if name.name == "index" else name
        assert (built / language / folder / "index.html").is_file(), source
    for page in hooks.OUTSIDE.values():
        assert (built / page.removesuffix(".md") / "index.html").is_file(), page


def test_nothing_is_fetched_from_another_host(built: Path) -> None:
    fetched = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//(?!127\.)[^"'\s>]+""")
    found = [f"{name}: {match[0]}" for name, text in pages(built) for match in fetched.finditer(text)]
    assert found == []
    assert not [name for name, text in pages(built) if 'class="mermaid"' in text]


def test_a_page_in_chinese_is_chinese_and_the_others_are_english(built: Path) -> None:
    texts = dict(pages(built))
    assert '<html lang="zh"' in texts["zh/index.html"]
    assert "接下来" in texts["zh/index.html"]
    for home in ("index.html", "zh/index.html"):
        assert re.search(r'data-md-type="navigation"\s+hidden', texts[home])
    assert "Where to go on" in texts["index.html"]
    # No page in Chinese: the English one, in a Chinese site.
    assert "Budgets and limits of processes" in texts["zh/security/index.html"]


def test_the_drawing_is_of_the_source_that_the_page_has() -> None:
    found = drawings.TARGET.read_text(encoding="utf-8")
    assert found.startswith(drawings.mark(drawings.source())), "run `python -m tools.site.drawings`"


def test_links_are_turned_to_pages_of_the_site_or_taken_out() -> None:
    fence = "\n```\n[d](../../build.py)\n```\n"
    text = f"[a](../../backends/vllm/README.md) [b](../security.md#x) [c](../../build.py){fence}"
    assert hooks.turned(text, "guides/x.md") == f"[a](../internals/stand-in.md) [b](../security.md#x) c{fence}"
    text = "[a](docs/security.md) [b](LICENSE) ![c](docs/images/site.png)"
    assert hooks.turned(text, "project/contributing.md") == "[a](../security.md) b ![c](../images/site.png)"


def test_lines_of_chinese_are_joined_without_a_space() -> None:
    assert hooks.turned("一，\n二\n- 三\n  四 a\nb\n五\n", "index.zh.md") == "一，二\n- 三四 a\nb\n五\n"
    assert hooks.turned("一。\nA\n二\n[三](x.md)，\n`b`\n", "index.zh.md") == "一。A\n二[三](x.md)，`b`\n"


def test_an_address_is_a_host_and_a_port() -> None:
    assert site.serve_arguments("127.0.0.1:8003") == ["serve", "--dev-addr", "127.0.0.1:8003"]
    for address in ("8003", "127.0.0.1:", "127.0.0.1:x"):
        with pytest.raises(BuildError, match="HOST:PORT"):
            site.serve_arguments(address)
