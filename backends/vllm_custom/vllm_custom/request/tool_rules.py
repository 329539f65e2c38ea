"""Tools that a request offers to the model: their form, and how many, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.engine.answers import ToolRequest
from vllm_custom.errors import InvalidRequestError, invalid, listing
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.template_kwargs import check_template_list

_CHOICES = ("none", "auto", "required")
_NEED_TOOLS = ("tool_choice", "parallel_tool_calls")
_MOST_LISTED = 20


def check_tools(control: RequestParameters, rules: ClientRules) -> None:
    """Refuse tools that are not in OpenAI's form, too many of them, and a choice of one that is not there.

    Raises:
        InvalidRequestError: names the parameter and the place in it.
    """
    if not control.tools:
        for name in _NEED_TOOLS:
            if name in control.model_fields_set and getattr(control, name) not in (None, "none"):
                raise InvalidRequestError(f"{name}: requires tools")
        if control.tools is not None:
            raise InvalidRequestError("tools: expected at least one tool, got []")
        return
    rules.check("tools", len(control.tools), "MAX_TOOLS", "tools")
    check_template_list("tools", control.tools, control.chat_template_kwargs, rules)
    names = [_name(tool, f"tools[{index}]") for index, tool in enumerate(control.tools)]
    _check_choice(control.tool_choice, names)


def tool_request(control: RequestParameters) -> ToolRequest:
    """The tools of a request that were checked; without a choice the model decides."""
    tools = control.tools or []
    choice = control.tool_choice if control.tool_choice is not None else "auto"
    return ToolRequest(tools, choice if tools else "none", control.parallel_tool_calls)


def _name(tool: Mapping[str, Any], where: str) -> str:
    if tool.get("type", "function") != "function":
        raise invalid(f"{where}.type", tool["type"], "function")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where}.function", function, "an object with name and parameters")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.function.name", name, "a name")
    if not isinstance(function.get("parameters") or {}, dict):
        raise invalid(f"{where}.function.parameters", function["parameters"], "a JSON schema as an object")
    return name


def _check_choice(choice: str | Mapping[str, Any] | None, names: Sequence[str]) -> None:
    if choice is None or choice in _CHOICES:
        return
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name is None:
        form = '{"type": "function", "function": {"name": "..."}}'
        raise invalid("tool_choice", choice, f"one of {', '.join(_CHOICES)}, or {form}")
    if name not in names:
        raise invalid("tool_choice.function.name", name, f"one of tools: {listing(names[:_MOST_LISTED])}")
