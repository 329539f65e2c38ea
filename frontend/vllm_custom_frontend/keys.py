"""The keys that clients have to know: where they are given, and whether a request has one."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

KEYS_VARIABLE = "VLLM_CUSTOM_API_KEYS"
# Names a file, as the secrets of containers are.
KEYS_FILE_VARIABLE = "VLLM_CUSTOM_API_KEYS_FILE"
_COMMENT = "#"
# What may stand in a log.
_NAME = re.compile(r"\s*#\s*name:\s*([\w.@ -]{1,64}?)\s*")


def api_keys(given: Sequence[str], file: Path | None) -> dict[str, str]:
    """All keys of the command line, of files with one in each line, and of the environment, each with its name.

    The name is for the log: that of a comment ``# name: NAME`` above a key in the file, else where the key was given.
    A place that is named has to have one: else a mistake in it would let every client in.

    Raises:
        ValueError: a place that is named has no key, or the file cannot be read.
    """
    if not all(key.strip() for key in given):
        raise ValueError("--api-key: expected a key, got none")
    named = [(key, f"--api-key {number}") for number, key in enumerate(given, 1)]
    if file is not None:
        named += _in_file(file, "--api-key-file")
    if KEYS_FILE_VARIABLE in os.environ:
        named += _in_file(Path(os.environ[KEYS_FILE_VARIABLE]), f"${KEYS_FILE_VARIABLE}")
    if KEYS_VARIABLE in os.environ:
        texts = enumerate(os.environ[KEYS_VARIABLE].split(","), 1)
        named += _found(
            ((key, f"{KEYS_VARIABLE} {number}") for number, key in texts), f"${KEYS_VARIABLE} is set and has no key"
        )
    return {key.strip(): name for key, name in reversed(named)}


class KeyRing:
    """Knows keys by their digests."""

    def __init__(self, keys: Iterable[str], names: Mapping[str, str] | None = None) -> None:
        """``names``: of the keys, for the log."""
        # A header has no encoding: clients send a key of other letters than ASCII in UTF-8 or in Latin-1.
        self._digests = [(_digest(encoded), (names or {}).get(key, "-")) for key in keys for encoded in _encodings(key)]

    def has(self, key: bytes) -> bool:
        """Whether ``key`` is one, in a time that says nothing about which one was close."""
        return self.name_of(key) is not None

    def name_of(self, key: bytes) -> str | None:
        """The name of ``key``; None where it is none. In a time that says nothing about which one was close."""
        given = _digest(key.strip())
        found = [name for digest, name in self._digests if hmac.compare_digest(given, digest)]
        return found[0] if found else None


def is_this_machine_only(host: str) -> bool:
    """Whether no other machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _found(named: Iterable[tuple[str, str]], without: str) -> list[tuple[str, str]]:
    keys = [(key, name) for text, name in named if (key := text.strip())]
    if not keys:
        raise ValueError(without)
    return keys


def _in_file(file: Path, place: str) -> list[tuple[str, str]]:
    """The keys and their names; ``place`` is where the file was named."""
    return _found(_lines(file, place), f"{place}: {file} has no key")


def _lines(file: Path, place: str) -> Iterator[tuple[str, str]]:
    """Each line that is no comment, and the name of the key in it."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{place}: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ValueError(f"{place}: {file}: expected UTF-8, got {byte}") from error
    name = ""
    for number, line in enumerate(lines, 1):
        if comment := _NAME.fullmatch(line):
            name = comment[1]
        else:
            if not line.lstrip().startswith(_COMMENT):
                yield line, name or f"line {number}"
            name = "" if line.strip() else name  # a key that is commented out had it


def _encodings(key: str) -> set[bytes]:
    encoded = {os.fsencode(key) if _has_surrogates(key) else key.encode()}
    with contextlib.suppress(UnicodeEncodeError):
        encoded.add(key.encode("latin-1"))
    return encoded


def _has_surrogates(key: str) -> bool:
    """Whether it came from a command line in another encoding than this process has."""
    return any("\ud800" <= char <= "\udfff" for char in key)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
