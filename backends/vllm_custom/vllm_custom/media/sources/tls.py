"""TLS to media servers: whom the model trusts, and what it shows them of itself."""

from __future__ import annotations

import ssl

from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError


def client_context(settings: Settings) -> ssl.SSLContext:
    """The system's authorities and MEDIA_CA_FILE, and the certificate of this client where it has one.

    Raises:
        ConfigError: a file that is not what it is said to be, or a key without its certificate.
    """
    context = ssl.create_default_context()
    certificate, key = settings.media_client_certificate_file, settings.media_client_key_file
    if settings.media_ca_file:
        try:
            context.load_verify_locations(settings.media_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _refused("MEDIA_CA_FILE", "certificates as PEM", settings.media_ca_file) from error
    if key and not certificate:
        raise ConfigError("config.pbtxt: parameter MEDIA_CLIENT_KEY_FILE needs MEDIA_CLIENT_CERTIFICATE_FILE")
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            expected = "a certificate and its key as PEM, without a password"
            raise _refused("MEDIA_CLIENT_CERTIFICATE_FILE", expected, certificate) from error
    return context


def _no_password() -> str:
    """Without it OpenSSL would ask at the terminal."""
    return ""


def _refused(name: str, expected: str, got: str) -> ConfigError:
    return ConfigError(f"config.pbtxt: parameter {name}: expected {expected}, got {got!r}")
