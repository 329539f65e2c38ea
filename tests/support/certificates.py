"""Certificates for servers of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NAMES = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
_REQUEST = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *_NAMES]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Files in PEM of a certificate for 127.0.0.1, which signs itself, and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(["openssl", *_REQUEST, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key
