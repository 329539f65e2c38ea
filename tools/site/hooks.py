"""Hooks of MkDocs.

- Pages that lie outside of docs/ (CONTRIBUTING.md, READMEs of folders) become pages of the site.
- Links are written as they work in the repository. Those that lead to such a page are turned to its place in the site;
  of those that lead to another file of the repository, which the site does not have, only the text stays.
- Lines of Chinese are joined without the space that a line break becomes.
- Headings get the anchors that the repository's host gives them, Chinese ones included.
- A Mermaid drawing is shown as the image that tools/site/drawings.py made of it, since Mermaid itself would be fetched
  from another host.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

CHECKOUT = Path(__file__).resolve().parents[2]
# File of the repository -> page of the site.
OUTSIDE = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "CHANGELOG.md": "project/changelog.md",
    "backends/vllm/README.md": "internals/stand-in.md",
    "benchmarks/README.md": "internals/benchmarks.md",
    "model_repository/shapes_vl/README.md": "internals/shapes_vl.md",
    "patches/README.md": "internals/patches.md",
}
_ORIGINS = {page: origin for origin, page in OUTSIDE.items()}
DRAWING = "images/processes.svg"
MERMAID = re.compile(r"^```mermaid\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
# Han characters and the punctuation of Chinese.
_CHINESE = "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_BREAK = re.compile(f"(?<={_CHINESE})\n *(?=\\[?{_CHINESE})|(?<=[，。；：、（）])\n *(?=[\\w\\[`])")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page in OUTSIDE.values():
        files.append(File(page, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    origin = _ORIGINS.get(page.file.src_uri)
    return (CHECKOUT / origin).read_text(encoding="utf-8") if origin else None


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri
    image = posixpath.relpath(DRAWING, posixpath.dirname(source) or ".")
    drawn = MERMAID.sub(f"![The processes and threads of a model, and what passes between them]({image})", markdown)
    return turned(drawn, source)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    if page.file.src_uri in ("index.md", "index.zh.md"):
        # It has the tabs, and no other page of its section.
        page.meta["hide"] = ["navigation"]
    return context


def turned(markdown: str, source: str) -> str:
    """``markdown`` of the page ``source`` with links as they work in the site, and Chinese lines joined.

    Fences stay as they are.
    """
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_turn(markdown[end : fence.start()], source), fence[0]]
        end = fence.end()
    return "".join([*parts, _turn(markdown[end:], source)])


def _turn(text: str, source: str) -> str:
    origin = _ORIGINS.get(source, f"docs/{source}")

    def turn(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link["target"]))
        page = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return link["text"]
        target = posixpath.relpath(page, posixpath.dirname(source) or ".")
        return f"{link['image']}[{link['text']}]({target}{link['anchor'] or ''})"

    return _BREAK.sub("", _LINK.sub(turn, text))
