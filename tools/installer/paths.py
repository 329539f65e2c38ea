"""Where things are: the checkout, what is generated in it, and the cache outside it."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOCKS = CHECKOUT / "locks"
PATCHES = CHECKOUT / "patches"
BACKEND_SOURCES = CHECKOUT / "backends"
BUILD = CHECKOUT / "build"
BACKENDS = BUILD / "backends"
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
