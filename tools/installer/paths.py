"""Where things are: the sources, what is generated from them, and the cache.

The sources are a checkout, or the folder that a wheel has next to the package vllm_custom. In a checkout what is
generated lies next to them; an installed package is not written to, and has it in the cache.
"""

import os
from pathlib import Path

# A wheel's folder of sources; pyproject.toml puts it there.
PACKAGED_SOURCES = "vllm_custom_sources"
CHECKOUT = Path(__file__).resolve().parents[2]
IS_PACKAGED = CHECKOUT.name == PACKAGED_SOURCES
# What a user calls: in messages of ours, and at the beginning of a line to copy.
PROGRAM = "vllm-custom" if IS_PACKAGED else "build.py"
COMMAND = "vllm-custom" if IS_PACKAGED else "python3 build.py"
LOCKS = CHECKOUT / "locks"
PATCHES = CHECKOUT / "patches"
BACKEND_SOURCES = CHECKOUT / "backends"
FRONTEND_SOURCES = CHECKOUT / "frontend"
DEFAULT_REPOSITORY = CHECKOUT / "model_repository"


def home() -> Path:
    """The folder that holds the environments: $VLLM_CUSTOM_HOME, else vllm_custom in the user's cache."""
    chosen = os.environ.get("VLLM_CUSTOM_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME")
    # An XDG variable that is not an absolute path is to be ignored, says the base directory specification.
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "vllm_custom"


BUILD = home() / "build" if IS_PACKAGED else CHECKOUT / "build"
BACKENDS = BUILD / "backends"
