"""Names of vLLM that have moved, or that an older version does not have."""

from __future__ import annotations

import importlib
from typing import Any

from vllm_custom.errors import UnsupportedError


def find(name: str, *modules: str) -> Any:
    """What ``name`` means in the first of these modules that has it.

    Args:
        name: of a class, a function or a constant.
        modules: where it has been, the newest first.

    Raises:
        ImportError: none of them has it.
    """
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"vLLM {version()} has no {name} in {', '.join(modules)}")


def has(name: str, *modules: str) -> bool:
    """Whether :func:`find` finds it."""
    try:
        find(name, *modules)
    except ImportError:
        return False
    return True


def lacks(what: str, since: str) -> UnsupportedError:
    """The refusal of ``what``, which came with vLLM ``since``."""
    return UnsupportedError(f"{what} needs vLLM {since} or later; this is {version()}")


def version() -> str:
    """Of the vLLM that runs."""
    import vllm

    return str(vllm.__version__)


def executor_class(vllm_config: Any) -> Any:
    """Which of vLLM's executors an engine with this configuration has."""
    return find("Executor", "vllm.v1.executor", "vllm.v1.executor.abstract").get_class(vllm_config)
