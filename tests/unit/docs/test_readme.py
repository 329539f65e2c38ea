"""README.md and docs/, in both languages: links resolve, both say the same commands, nothing private."""

import json
import re
from pathlib import Path

import pytest

from tools.installer.command_table import COMMANDS
from tools.installer.paths import CHECKOUT

ENGLISH, CHINESE = CHECKOUT / "README.md", CHECKOUT / "README.zh-CN.md"
READMES = [ENGLISH, CHINESE]
DOCS = sorted((CHECKOUT / "docs").rglob("*.md"))
PAGES = [*READMES, CHECKOUT / "CHANGELOG.md", CHECKOUT / "CONTRIBUTING.md", *DOCS]
# Every page that there is in both languages, the English one first.
TRANSLATED = [(ENGLISH, CHINESE)] + [
    (page.with_name(page.name.replace(".zh.md", ".md")), page) for page in DOCS if page.name.endswith(".zh.md")
]
# Folders of somebody's own machine.
FORBIDDEN = re.compile(r"/(?:root|home|tmp|Users)/")
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def blocks(page: Path, *languages: str) -> list[str]:
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [block["code"] for block in found if not languages or block["language"] in languages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[str]:
    return re.findall(r"^(#+ .+)$", prose(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, spaces to hyphens, punctuation dropped."""
    texts = [heading.lstrip("# ").replace("`", "").lower() for heading in headings(page)]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    for match in _LINK.finditer(prose(page)):
        target, _, anchor = match["target"].partition("#")
        if target.startswith("https://"):
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{name(page)}: {match['target']}"
        assert linked.is_relative_to(CHECKOUT), f"{name(page)}: {match['target']} leaves the repository"
        assert not anchor or anchor in anchors(linked), f"{name(page)}: {match['target']}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_folder_of_somebodys_own_machine(page: Path) -> None:
    assert not FORBIDDEN.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_fences_are_closed_and_no_placeholder_is_left(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    assert not re.findall(r"^@\w+@$|TODO|FIXME", text, re.MULTILINE)


@pytest.mark.parametrize("pages", TRANSLATED, ids=lambda pages: name(pages[0]))
class TestBothLanguages:
    def test_have_the_same_headings(self, pages: tuple[Path, Path]) -> None:
        levels = [[heading.split()[0] for heading in headings(page)] for page in pages]
        assert levels[0] == levels[1]

    def test_have_the_same_commands_and_answers(self, pages: tuple[Path, Path]) -> None:
        english, chinese = pages
        assert blocks(english, "bash", "python", "json") == blocks(chinese, "bash", "python", "json")
        assert len(blocks(english)) == len(blocks(chinese))


@pytest.mark.parametrize("page", READMES, ids=name)
def test_a_readme_is_short(page: Path) -> None:
    """Everything else has its page in docs/."""
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", READMES, ids=name)
def test_commands_of_build_py_exist(page: Path) -> None:
    used = set(re.findall(r"build\.py ([a-z]+)", page.read_text(encoding="utf-8")))
    assert {"demo", "test", "serve", "docs"} <= used <= {command.name for command in COMMANDS}


@pytest.mark.parametrize("page", [*READMES, *DOCS], ids=name)
def test_code_is_valid(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, name(page), "exec")
    for code in blocks(page, "json"):
        json.loads(code)


@pytest.mark.parametrize("page", READMES, ids=name)
def test_files_named_in_commands_exist(page: Path) -> None:
    named = re.findall(r"docs/images/[\w.]+|model_repository/[\w./]+|patches/\w+\.py", page.read_text(encoding="utf-8"))
    assert named
    for path in named:
        assert (CHECKOUT / path.rstrip(".")).exists(), path
