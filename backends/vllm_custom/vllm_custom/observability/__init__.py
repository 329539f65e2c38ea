"""What operators see of a model at work."""

from vllm_custom.observability.json_lines import JsonLogger
from vllm_custom.observability.log import Log, QueuedLog
from vllm_custom.observability.requests import Observer, RequestRecord, begin_stage, serving, stage
from vllm_custom.observability.spans import Span, Tracer

__all__ = [
    "JsonLogger",
    "Log",
    "Observer",
    "QueuedLog",
    "RequestRecord",
    "Span",
    "Tracer",
    "begin_stage",
    "serving",
    "stage",
]
