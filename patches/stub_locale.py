"""Give the Triton stub a UTF-8 locale.

What breaks: the python backend's stub runs its interpreter isolated, in the C locale, and ignores LC_ALL and
PYTHONUTF8. Importing vLLM reads files that hold more than ASCII and ends with a UnicodeDecodeError. Seen with Triton
24.10; nothing is lost where a later stub sets the locale itself.
"""

from __future__ import annotations

import locale

NAME = "stub_locale"
BEFORE_VLLM = True


def applies(upstream: str, vllm_version: str) -> bool:
    """Wherever the process would read files as ASCII."""
    return locale.getpreferredencoding(False).lower().replace("-", "") != "utf8"


def apply() -> None:
    """Set the locale of this process; C.UTF-8 is part of glibc's packages on every distribution Triton runs on."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
