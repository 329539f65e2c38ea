"""From a Triton request to a typed, checked call."""

from vllm_custom.request.batch import check_batch
from vllm_custom.request.pairs import TextPairs
from vllm_custom.request.parameter_tensors import ParameterTensors
from vllm_custom.request.parse import InferenceCall, parse_embedding_request, parse_request, split_batch
from vllm_custom.request.rules import ClientRules, ProcessorBounds
from vllm_custom.request.tensors import Tensors, read_tensors
from vllm_custom.request.word_lists import read_word_lists

__all__ = [
    "ClientRules",
    "InferenceCall",
    "ParameterTensors",
    "ProcessorBounds",
    "Tensors",
    "TextPairs",
    "check_batch",
    "parse_embedding_request",
    "parse_request",
    "read_tensors",
    "read_word_lists",
    "split_batch",
]
