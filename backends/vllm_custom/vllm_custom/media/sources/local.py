"""Read media files below ALLOWED_LOCAL_MEDIA_PATH. Blocking: runs in threads of its own."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from vllm_custom.errors import InvalidRequestError, MediaLimitError

# RFC 8089: file:/path, file:///path and file://localhost/path
_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(?P<path>/[^?#]*)", re.IGNORECASE)
_MAX_PATH_BYTES = 4096  # PATH_MAX of Linux; to follow a path takes long where it has many steps
_MAX_URL = 3 * _MAX_PATH_BYTES + len("file://localhost")  # each byte may be escaped
# O_NONBLOCK: opening a named pipe must not wait for its writer.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class LocalFiles:
    """The folder that clients may read from; ``root`` is absolute."""

    root: Path

    def read(self, url: str, field: str, max_bytes: int) -> bytes:
        """The file that a file: URL names.

        Raises:
            InvalidRequestError: outside of the folder (symbolic links followed), not a regular file, or too large.
                The message never says what exists outside.
        """
        steps = self._steps(url, field)
        try:
            with _regular(self._open(steps), field) as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise InvalidRequestError(
                f"{field}: no readable file of this name below ALLOWED_LOCAL_MEDIA_PATH of this model"
            ) from error
        if len(data) > max_bytes:
            expected = f"a file of at most {max_bytes} bytes (MEDIA_MAX_BYTES of this model)"
            raise MediaLimitError(f"{field}: expected {expected}, got more", "bytes")
        return data

    def _steps(self, url: str, field: str) -> tuple[str, ...]:
        if len(url) > _MAX_URL:
            raise _too_long(field)
        match = _FILE_URL.fullmatch(url.strip())
        path = unquote(match["path"], errors="surrogateescape") if match else "\0"
        if "\0" in path:
            raise InvalidRequestError(f"{field}: expected a file: URL with an absolute path, file:///folder/file")
        if len(path) > _MAX_PATH_BYTES:
            raise _too_long(field)
        try:
            root, wanted = Path(os.path.realpath(self.root)), Path(os.path.realpath(path))
        except (OSError, ValueError) as error:
            raise InvalidRequestError(f"{field}: the file: URL cannot be followed") from error
        if not wanted.is_relative_to(root) or wanted == root:
            raise InvalidRequestError(f"{field}: the file: URL is not below ALLOWED_LOCAL_MEDIA_PATH of this model")
        return wanted.relative_to(root).parts

    def _open(self, steps: tuple[str, ...]) -> int:
        """Open step by step from the root, following no link: one put in place after the check is an error."""
        folder = os.open(os.path.realpath(self.root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for step in steps[:-1]:
                inner = os.open(step, _FLAGS | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(steps[-1], _FLAGS, dir_fd=folder)
        finally:
            os.close(folder)


def _too_long(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: expected a file: URL with a path of at most {_MAX_PATH_BYTES} bytes")


def _regular(descriptor: int, field: str) -> BinaryIO:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise InvalidRequestError(f"{field}: expected a file: URL of a regular file, got another kind of file")
