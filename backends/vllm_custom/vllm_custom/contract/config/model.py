"""Parameters of the model as a whole: base, chat template, adapters, OpenAI's API."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from vllm_custom.contract.declare import config_parameter
from vllm_custom.kernel import devices


def _json_object(text: str) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _sharing(text: str) -> str:
    word = text.lower() or "auto"
    if word not in ("auto", "true", "false"):
        raise ValueError(text)
    return word


def _endpoint(text: str) -> str:
    """The address of a collector. Clients of Triton can read a model's parameters, so none of them is a secret."""
    if "@" in text or not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(text)
    return text


def _log_format(text: str) -> str:
    if text.lower() not in ("text", "json"):
        raise ValueError(text)
    return text.lower()


def _gpu_groups(text: str) -> str:
    devices.read_groups(text)
    return text


def _route(text: str) -> str:
    if not text.startswith("/") or not text.isascii():
        raise ValueError(text)
    return text


class ModelParameters(BaseModel):
    """Parameters that are neither of media nor limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    report_custom_metrics: bool = config_parameter(
        False,
        "Report vLLM's metrics and our own ([metrics](#metrics)) on Triton's metrics endpoint.",
        official=True,
    )
    enable_vllm_health_check: bool = config_parameter(
        False,
        "Watch the engine, and unload the model when it has died, in place of starting the engine again. Triton "
        "unloads only with --model-control-mode=explicit; elsewhere the log says so, and ENGINE_RESTARTS holds.",
        official=True,
    )
    gpu_device_ids: str = config_parameter(
        "",
        "The GPUs of the model, as `0,1`, as many as the engine takes; several groups, as `0,1;2,3`, for as many "
        "instances ([which GPUs](guides/scaling.md#which-gpus)). The numbers count within what tritonserver sees "
        "(`CUDA_VISIBLE_DEVICES`). Default: with KIND_GPU the GPU of Triton's choice, else the first that it sees.",
        official=True,
        parse=_gpu_groups,
        allowed="numbers of GPUs, such as 0,1 or 0,1;2,3",
    )
    otlp_traces_endpoint: str = config_parameter(
        "",
        "Collector that gets this backend's OpenTelemetry spans ([traces](guides/traces.md)), as "
        "`http://localhost:4317`; `none`: no spans. Default: where vLLM's go (otlp_traces_endpoint in model.json), or "
        "what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT in tritonserver's environment says; "
        "without any of them there are none.",
        parse=_endpoint,
        allowed="a URL without credentials, which OTEL_EXPORTER_OTLP_HEADERS has, or none",
    )
    log_format: str = config_parameter(
        "text",
        "json: this backend's log lines are JSON objects on tritonserver's standard error, past Triton's log, and each "
        "request has a line with its id, adapter, tokens, times and status ([logs](guides/traces.md#logs)).",
        parse=_log_format,
        allowed="text or json",
    )
    vllm_backend_dir: str = config_parameter(
        "",
        "Folder of the vLLM backend's model.py to build on; default: the environment variable of that name, else the "
        "folder vllm next to this backend's.",
    )
    share_engine: str = config_parameter(
        "auto",
        "Whether all instances of the model on the same devices are fronts of one engine, which has a process of its "
        "own. auto: where instance_group counts more than one. true: also where it counts one. false: each instance "
        "has an engine of its own.",
        parse=_sharing,
        allowed="auto, true or false",
    )
    unload_first: bool = config_parameter(
        False,
        "Where the model is loaded again while it is served: end its engine before another one is started, for models "
        "that fill their devices. Requests are refused meanwhile, and those under way have 30 seconds. The engine "
        "stays where neither model.json nor the model's files have changed. Implies SHARE_ENGINE.",
    )
    engine_grace_period: int = config_parameter(
        30,
        "How long a shared engine stays when its last instance has ended, so that one that is loaded then finds it.",
        unit="seconds",
    )
    engine_restarts: int = config_parameter(
        3,
        "How often within an hour an engine that has died is started again. Meanwhile requests are answered "
        "UNAVAILABLE (OpenAI: 503 with Retry-After). 0: never; the model then has to be loaded again.",
    )
    engine_restart_backoff_seconds: int = config_parameter(
        5,
        "Time before the second try to start the engine again within an hour; it doubles with each further one. The "
        "first try comes at once.",
        unit="seconds",
    )
    engine_restart_wait_seconds: int = config_parameter(
        0,
        "How long a request to the model may wait for an engine that is being started again, before it is answered "
        "UNAVAILABLE.",
        unit="seconds",
    )
    engine_stall_seconds: int = config_parameter(
        600,
        "An engine that has not come to the end of a step for so long counts as dead, and is ended. Longer than the "
        "longest step, a first one that compiles included. 0: no limit.",
        unit="seconds",
    )
    exit_on_lost_instance: bool = config_parameter(
        False,
        "Let tritonserver end, as on SIGTERM, when the process of an instance was killed: Triton does not start it "
        "again, and requests sent to it fail. For servers that are started again when they end and that neither "
        "`build.py serve` nor `build.py supervise` has started, which replace instances.",
    )
    instances_replaced: int = config_parameter(
        0,
        "Counted up by `build.py serve` and `build.py supervise` when they have Triton replace the instances of the "
        "model, one of which was killed. Not to be set.",
    )
    chat_template: str = config_parameter(
        "", "A Jinja file (relative paths: from the version folder) that replaces the model's own chat template."
    )
    max_inflight_requests: int = config_parameter(
        0,
        "Sequences in flight at once (n, rows and prompts of all requests); further requests are answered UNAVAILABLE "
        "immediately. 0: no limit.",
    )
    lora_dir: str = config_parameter(
        "",
        "A folder (relative paths: from the version folder) whose subfolders with an adapter_config.json are LoRA "
        "adapters by the subfolder's name. They may be added, replaced and removed while the model serves. Requires "
        "enable_lora in model.json.",
    )
    tool_call_parser: str = config_parameter(
        "",
        "vLLM's parser that extracts tool calls from the model's text, as `--tool-call-parser` of `vllm serve`.",
    )
    enable_auto_tool_choice: bool = config_parameter(
        False,
        'Let the model decide whether to call a tool (tool_choice "auto"). Requires TOOL_CALL_PARSER.',
    )
    reasoning_parser: str = config_parameter(
        "",
        "vLLM's parser that separates the model's reasoning from its answer, as `--reasoning-parser`; the engine "
        "argument reasoning_parser in model.json means the same.",
    )
    openai_args: dict[str, Any] = config_parameter(
        {},
        "For openai_request: further arguments of vLLM's OpenAI server as a JSON object, such as "
        '`{"enable_force_include_usage": true}`; only those that affect its responses.',
        parse=_json_object,
        allowed="a JSON object",
    )
    openai_paths: tuple[str, ...] = config_parameter(
        (),
        "For openai_request: routes of vLLM's application that may be called in addition to those of the OpenAI API, "
        "separated by commas, such as `/v1/chat/completions/render`. Some change the engine for all clients; see "
        "[OpenAI](openai.md).",
        parse=_route,
        allowed="a list of paths such as /v1/chat/completions/render",
    )
    openai_stored_responses: int = config_parameter(
        0,
        "For openai_request: how many responses of `/v1/responses` the model keeps, the youngest, for "
        "`previous_response_id`, `background` and `/v1/responses/{id}`; a client that knows an id can read the "
        "response. 0: none, and `store` is ignored. Needs one instance, since each has a store of its own.",
        unit="responses",
    )
    openai_stored_bytes: int = config_parameter(
        1024 * 1024 * 1024,
        "Memory of what OPENAI_STORED_RESPONSES keeps, as an estimate: where it is more, the oldest responses go. "
        "Messages that several responses have in common count for each of them.",
        minimum=1,
        unit="bytes",
    )
    score_max_documents: int = config_parameter(
        1000, "Elements that the input documents may have; each is a separate prompt for the engine.", minimum=1
    )
