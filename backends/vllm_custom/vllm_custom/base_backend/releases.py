"""Which release a vLLM backend folder is, by the hash of its Python files."""

from __future__ import annotations

import hashlib
from pathlib import Path

STAND_IN_MARKER = "vllm_backend_lib"

# First 16 hex digits of `fingerprint` for src/ of triton-inference-server/vllm_backend. Where several releases share
# their sources, the table names the first and the last of them.
_RELEASES = {
    "e815f22522267708": "r23.10",
    "b6e48fc295674290": "r23.11 to r24.01",
    "56f0d486dae34b17": "r24.02",
    "fb24362628b60ba5": "r24.03",
    "cca55a023fbc0af7": "r24.04",
    "72690aca29d010a2": "r24.05",
    "5954dce253581588": "r24.06 to r24.07",
    "693602747be4996d": "r24.08",
    "12cee5735c3b66ea": "r24.09",
    "f72c540a2909ec49": "r24.10 to r24.11",
    "3868295cc88d9a63": "r24.12",
    "5d4ad56509272c7a": "r25.01",
    "77aef43ead73316b": "r25.02 to r25.03",
    "9dc1ace6d840c5c7": "r25.04 to r25.09",
    "f27eea52ae0a5275": "r25.10",
    "38dbe57af9c38ec2": "r25.11",
    "aef3852a08d8422c": "r25.12",
    "0eaa91966de6aba2": "r26.01",
}


def fingerprint(directory: Path) -> str:
    """16 hex digits over the names and contents of ``model.py`` and ``utils/*.py`` in ``directory``."""
    files = [path for path in (directory / "model.py", *directory.glob("utils/**/*.py")) if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.relative_to(directory).as_posix()):
        name = path.relative_to(directory).as_posix().encode()
        digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


STAND_IN = "stand-in"
# What patches are asked about where :func:`release_name` knows none.
UNKNOWN = "unknown"


def release_names() -> frozenset[str]:
    """Every name that a patch may be asked about."""
    return frozenset({STAND_IN, UNKNOWN, *map(_official, _RELEASES.values())})


def release_name(directory: Path) -> str | None:
    """``official r26.01``, ``stand-in``, or None for sources that are neither."""
    if (directory / STAND_IN_MARKER).is_dir():
        return STAND_IN
    release = _RELEASES.get(fingerprint(directory))
    return _official(release) if release else None


def _official(release: str) -> str:
    return f"official {release}"
