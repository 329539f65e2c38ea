"""file: URLs: below one folder, whatever links and dots say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.sources.local import LocalFiles

LIMIT = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files, beside others that nobody may read."""
    root = tmp_path / "media"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").write_bytes(b"inside")
    (root / "sub" / "b c 图.png").write_bytes(b"deeper")
    (tmp_path / "media-other").mkdir()
    (tmp_path / "media-other" / "a.png").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def read(root: Path, url: str, limit: int = LIMIT) -> bytes:
    return LocalFiles(root).read(url, "image[0]", limit)


def refused(root: Path, url: str, limit: int = LIMIT) -> str:
    with pytest.raises(InvalidRequestError) as error:
        read(root, url, limit)
    message = str(error.value)
    assert message.startswith("image[0]: ")
    assert str(root.parent) not in message
    return message


@pytest.mark.parametrize(
    "form",
    [
        "file://{root}/a.png",
        "file:{root}/a.png",
        "FILE://localhost{root}/a.png",
        " file://{root}/a.png\n",
        "file://{root}/%61.png",
        "file://{root}/sub/../a.png",
        "file://{root}//./a.png",
    ],
)
def test_files_below_the_folder(root: Path, form: str) -> None:
    assert read(root, form.format(root=root)) == b"inside"


def test_names_with_spaces_and_beyond_ascii(root: Path) -> None:
    path = root / "sub" / "b c 图.png"
    assert read(root, path.as_uri()) == b"deeper"
    assert read(root, f"file://{path}") == b"deeper"


@pytest.mark.parametrize(
    "form",
    [
        "file://{root}/../secret",
        "file://{root}/%2e%2e/secret",
        "file://{root}/..%2fsecret",
        "file://{root}/sub/../../secret",
        "file://{root}-other/a.png",  # begins like the folder's name
        "file://{root}/../media-other/a.png",
        "file://{root}/../no-such-file",  # the same answer: what exists is not told
        "file:///etc/passwd",
        "file:///proc/self/environ",
        "file:///dev/zero",
        "file://{root}",
        "file://{root}/",
        "file://{root}/sub/..",
    ],
)
def test_outside_of_the_folder(root: Path, form: str) -> None:
    assert refused(root, form.format(root=root)) == (
        "image[0]: the file: URL is not below ALLOWED_LOCAL_MEDIA_PATH of this model"
    )


@pytest.mark.parametrize(
    "form",
    [
        "file://evil.example{root}/a.png",
        "file://127.0.0.1{root}/a.png",
        "file:a.png",
        "file:../a.png",
        "file:",
        "file:////",
        "file://{root}/a.png%00.jpg",  # RFC 3986, section 7.3
        "file://{root}/a.png?x",
        "file://{root}/a.png#x",
        "http://{root}/a.png",
        "file://{root}/\ud800",
    ],
    ids=ascii,
)
def test_what_is_no_path(root: Path, form: str) -> None:
    refused(root, form.format(root=root))


@pytest.mark.parametrize(
    "make",
    [
        lambda root: (root / "link").symlink_to(root.parent / "secret"),
        lambda root: (root / "link").symlink_to("../secret"),
        lambda root: (root / "link").symlink_to(root.parent / "nothing"),
        lambda root: ((root / "hop").symlink_to(root.parent), (root / "link").symlink_to("hop/secret")),
    ],
)
def test_links_that_lead_out_are_refused(root: Path, make: Callable[[Path], object]) -> None:
    make(root)
    assert "is not below" in refused(root, f"file://{root}/link")


def test_links_that_stay_inside_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to("a.png")
    (root / "folder").symlink_to("sub")
    (tmp_path / "alias").symlink_to(root)
    assert read(root, f"file://{root}/link") == b"inside"
    assert read(root, f"file://{root}/folder/b%20c%20图.png") == b"deeper"
    assert read(tmp_path / "alias", f"file://{root}/a.png") == b"inside", "the folder itself may be a link"
    assert read(tmp_path / "alias", f"file://{tmp_path}/alias/a.png") == b"inside"


def test_links_that_go_round(root: Path) -> None:
    (root / "link").symlink_to("link")
    assert "no readable file of this name" in refused(root, f"file://{root}/link")


@pytest.mark.parametrize("swapped", ["a.png", "sub"])
def test_a_link_put_in_place_after_the_check_is_not_followed(
    root: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of CWE-367: the check sees a file or folder, the opening a link."""
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "b c 图.png").write_bytes(b"secret")
    realpath = os.path.realpath

    def check_and_swap(path: str | Path) -> str:
        resolved = realpath(path)
        if resolved.endswith(".png"):
            (root / swapped).rename(root.parent / "moved")
            (root / swapped).symlink_to(root.parent / ("secret" if swapped == "a.png" else "elsewhere"))
        return resolved

    monkeypatch.setattr(os.path, "realpath", check_and_swap)
    name = "a.png" if swapped == "a.png" else "sub/b c 图.png"
    assert "no readable file of this name" in refused(root, f"file://{root}/{name}")


@pytest.mark.parametrize("name", ["missing.png", "sub/missing.png", "missing/a.png", "a.png/a.png", "x" * 300])
def test_files_that_are_not_there(root: Path, name: str) -> None:
    assert "no readable file of this name" in refused(root, f"file://{root}/{name}")


def test_what_is_no_regular_file_is_refused_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert "expected a file: URL of a regular file" in refused(root, f"file://{root}/pipe")
    assert "expected a file: URL of a regular file" in refused(root, f"file://{root}/sub")


def test_size_is_checked(root: Path) -> None:
    (root / "a.png").write_bytes(bytes(LIMIT))
    assert len(read(root, f"file://{root}/a.png")) == LIMIT
    assert "expected a file of at most 999 bytes (MEDIA_MAX_BYTES of this model), got more" in refused(
        root, f"file://{root}/a.png", LIMIT - 1
    )


def test_no_descriptor_is_left(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for url in ("a.png", "sub/b c 图.png", "sub", "missing/a.png", "sub/missing"):
        try:
            read(root, f"file://{root}/{url}")
        except InvalidRequestError:
            continue
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    assert after == before


@pytest.mark.parametrize("path", ["a/" * 1_000_000, "%61%2f" * 1_000_000, "../" * 2000, "b" * 4097, "%62" * 4097])
def test_a_path_that_is_too_long_is_not_followed(root: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To follow a million steps takes minutes."""
    monkeypatch.setattr(os.path, "realpath", lambda *_: pytest.fail("followed"))
    assert "expected a file: URL with a path of at most 4096 bytes" in refused(root, f"file:///{path}")
