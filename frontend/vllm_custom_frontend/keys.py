"""The keys that clients have to know: where they are given, and whether a request has one."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

KEYS_VARIABLE = "VLLM_CUSTOM_API_KEYS"
# Names a file, as the secrets of containers are.
KEYS_FILE_VARIABLE = "VLLM_CUSTOM_API_KEYS_FILE"
_COMMENT = "#"


def api_keys(given: Sequence[str], file: Path | None) -> frozenset[str]:
    """All keys of the command line, of files with one in each line, and of the environment.

    Whoever names a place for keys wants some: without one in it nobody is let in by mistake.

    Raises:
        ValueError: a place that is named has no key, or the file cannot be read.
    """
    if not all(key.strip() for key in given):
        raise ValueError("--api-key: expected a key, got none")
    keys = {key.strip() for key in given}
    if file is not None:
        keys |= _in_file(file, "--api-key-file")
    if KEYS_FILE_VARIABLE in os.environ:
        keys |= _in_file(Path(os.environ[KEYS_FILE_VARIABLE]), f"${KEYS_FILE_VARIABLE}")
    if KEYS_VARIABLE in os.environ:
        keys |= _found(os.environ[KEYS_VARIABLE].split(","), f"${KEYS_VARIABLE} is set and has no key")
    return frozenset(keys)


class KeyRing:
    """Knows keys by their digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        # A header has no encoding: clients send a key of other letters than ASCII in UTF-8 or in Latin-1.
        self._digests = [_digest(encoded) for key in keys for encoded in _encodings(key)]

    def has(self, key: bytes) -> bool:
        """Whether ``key`` is one, in a time that says nothing about which one was close."""
        given = _digest(key.strip())
        return sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0


def is_this_machine_only(host: str) -> bool:
    """Whether nobody else can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _found(texts: Iterable[str], without: str) -> set[str]:
    keys = {key for text in texts if (key := text.strip())}
    if not keys:
        raise ValueError(without)
    return keys


def _in_file(file: Path, place: str) -> set[str]:
    """``place`` is where the file was named."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{place}: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ValueError(f"{place}: {file}: expected UTF-8, got {byte}") from error
    given = [line for line in lines if not line.lstrip().startswith(_COMMENT)]
    return _found(given, f"{place}: {file} has no key")


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
