"""Which check of constraints a model gets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_custom.engine.vllm.constraints.client import CompileClient, CompileProcess, UnlimitedCheck
from vllm_custom.engine.vllm.constraints.grammars import check_constraint, compiler_facts


def start_checker(
    engine: Any, seconds: float, log_error: Callable[[str], None], process: CompileProcess | None = None
) -> CompileClient | UnlimitedCheck:
    """The check for the constraints of ``engine``. Blocks for as long as it takes to copy the tokenizer.

    Args:
        engine: the AsyncLLM.
        seconds: that a constraint may take to compile.
        log_error: told when constraints can only be parsed, without a limit of time.
        process: that was started before the engine, so that it is ready by now.
    """
    try:
        facts = compiler_facts(engine)
    except Exception as error:
        log_error(
            "[vllm_custom] constraints are checked without limits of time and memory, since this tokenizer cannot be "
            f"handed to another process: {error!r}"
        )
        if process is not None:
            process.close()
        return UnlimitedCheck(functools.partial(check_constraint, engine))
    return CompileClient(facts, seconds, log_error, process=process)
