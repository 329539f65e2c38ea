"""From a Triton request to a typed, checked call."""

from vllm_custom.request.batch import check_batch
from vllm_custom.request.pairs import TextPairs
from vllm_custom.request.parse import GenerateCall, parse_embedding_request, parse_request, split_batch
from vllm_custom.request.rules import ClientRules, ProcessorBounds
from vllm_custom.request.tensors import Tensors, read_tensors
from vllm_custom.request.typed import TypedInputs

__all__ = [
    "ClientRules",
    "GenerateCall",
    "ProcessorBounds",
    "Tensors",
    "TextPairs",
    "TypedInputs",
    "check_batch",
    "parse_embedding_request",
    "parse_request",
    "read_tensors",
    "split_batch",
]
