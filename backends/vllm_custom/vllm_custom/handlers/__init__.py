"""One handler for each kind of request; which of them a model has is decided when it is loaded."""

from vllm_custom.handlers.answers import Answers
from vllm_custom.handlers.base import Handler, Incoming, Parsed
from vllm_custom.handlers.calls import EngineCalls
from vllm_custom.handlers.generate import GenerateHandler
from vllm_custom.handlers.openai import OpenAIHandler
from vllm_custom.handlers.pooling import PoolingHandler
from vllm_custom.handlers.router import Router
from vllm_custom.handlers.rows import RowReader
from vllm_custom.handlers.scoring import ScoringHandler

__all__ = [
    "Answers",
    "EngineCalls",
    "GenerateHandler",
    "Handler",
    "Incoming",
    "OpenAIHandler",
    "Parsed",
    "PoolingHandler",
    "Router",
    "RowReader",
    "ScoringHandler",
]
