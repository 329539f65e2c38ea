"""vLLM's OpenAI application, its arguments and parsers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_custom.errors import (
    ConfigError,
    listing,
)


def prepare_reasoning(arguments: dict[str, Any]) -> None:
    """Make ``structured_outputs_config`` of model.json vLLM's own object where a parser for reasoning is given too.

    vLLM 0.32 writes the parser's name into it before it turns JSON objects into its own.

    Raises:
        ConfigError: vLLM refuses its content.
    """
    given = arguments.get("structured_outputs_config")
    if not arguments.get("reasoning_parser") or not isinstance(given, dict):
        return
    from vllm.config import StructuredOutputsConfig

    try:
        arguments["structured_outputs_config"] = StructuredOutputsConfig(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.json: structured_outputs_config: {error}") from error


# Arguments of vLLM's server that decide what its OpenAI answers look like; the rest is about ports, processes, logs,
# or opens what this backend guards by itself.
OPENAI_ARGUMENTS = frozenset(
    {
        "chat_template_content_format",
        "default_chat_template_kwargs",
        "enable_force_include_usage",
        "enable_per_request_metrics",
        "enable_prompt_tokens_details",
        "exclude_tools_when_tool_choice_none",
        "fingerprint_mode",
        "fingerprint_value",
        "response_role",
        "return_tokens_as_token_ids",
        "sse_keep_alive_interval",
        "tool_strict_level",
        "trust_request_chat_template",
        "trust_request_mm_kwargs",
    }
)


def check_parsers(tool_call_parser: str, reasoning_parser: str) -> None:
    """Refuse names of parsers that this vLLM does not have.

    Raises:
        ConfigError: names the parameter, and those there are.
    """
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for parameter, name, manager in (
        ("TOOL_CALL_PARSER", tool_call_parser, ToolParserManager),
        ("REASONING_PARSER", reasoning_parser, ReasoningParserManager),
    ):
        known = manager.list_registered()
        if name and name not in known:
            raise ConfigError(f"config.pbtxt: parameter {parameter}: expected one of {listing(known)}, got {name!r}")


async def build_openai_application(engine: Any, served_names: Sequence[str], arguments: Mapping[str, Any]) -> Any:
    """vLLM's OpenAI application on ``engine``, as ``vllm serve`` builds it; to be called over ASGI.

    Args:
        engine: the AsyncLLM. Run this on its event loop.
        served_names: what requests may call the model; answers carry the first.
        arguments: of vLLM's server, by the names of its command line with underscores.
    """
    from types import SimpleNamespace

    from vllm.entrypoints.cli.serve import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the module's new place is not in all versions
        from vllm.entrypoints.openai.api_server import build_app, init_app_state

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    # The root of a model card: not the path of the weights, which is nobody's business.
    args.model, args.served_model_name = served_names[0], list(served_names)
    args.structured_outputs_config = engine.vllm_config.structured_outputs_config
    args.disable_log_stats = not engine.log_stats
    args.api_key = [""]  # with None vLLM would ask for the VLLM_API_KEY of tritonserver's environment
    for name, value in arguments.items():
        setattr(args, name, value)
    validate_parsed_serve_args(args)
    tasks = await engine.get_supported_tasks()
    application = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, application.state, args, tasks)
    application.state.server = SimpleNamespace(should_exit=False)  # the server it would stop when the engine has died
    return application
