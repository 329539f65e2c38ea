"""Small stand-ins for what Triton and vLLM hand over. Each has the binding's names, and no more than is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vllm_custom.errors import BackendError


def outcome(function: Callable[[], Any]) -> tuple[Any, BackendError | None]:
    """What ``function`` returns, or the error of ours that it raises; any other error is the test's failure."""
    try:
        return function(), None
    except BackendError as error:
        return None, error


class ModelConfig:
    """Triton's ``ModelConfig`` of auto-completion (r24.10); test_contract.py runs the same tests on the real one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = {"name": "model", "max_batch_size": 0, "input": [], "output": [], **config}

    def as_dict(self) -> dict[str, Any]:
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        if self._config["max_batch_size"] > max_batch_size:
            raise ValueError("configuration specified a larger max_batch_size")
        self._config["max_batch_size"] = max_batch_size

    def add_input(self, tensor: dict[str, Any]) -> None:
        self._add("input", tensor, {"name", "data_type", "dims", "optional"})

    def add_output(self, tensor: dict[str, Any]) -> None:
        self._add("output", tensor, {"name", "data_type", "dims"})

    def set_model_transaction_policy(self, policy: dict[str, Any]) -> None:
        if set(policy) - {"decoupled"}:
            raise ValueError("contains property other than 'decoupled'")
        declared = self._config.setdefault("model_transaction_policy", {})
        if declared.get("decoupled", policy["decoupled"]) != policy["decoupled"]:
            raise ValueError("trying to change decoupled property")
        declared["decoupled"] = policy["decoupled"]

    def _add(self, kind: str, tensor: dict[str, Any], allowed: set[str]) -> None:
        if set(tensor) - allowed or {"name", "data_type", "dims"} - set(tensor):
            raise ValueError(f"{kind}: wrong properties {sorted(tensor)}")
        for declared in self._config[kind]:
            if declared["name"] == tensor["name"]:
                if declared["data_type"] not in ("TYPE_INVALID", tensor["data_type"]):
                    raise ValueError(f"{kind}: another data_type is declared")
                if declared["dims"] and declared["dims"] != tensor["dims"]:
                    raise ValueError(f"{kind}: other dims are declared")
                declared.update(tensor)
                return
        self._config[kind].append(tensor)


class TritonError(Exception):
    """``pb_utils.TritonError``: its message and code are methods."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self._code = code

    def message(self) -> str:
        return str(self)

    def code(self) -> int:
        return self._code


@dataclass
class Tensor:
    """``pb_utils.Tensor``: name and array are methods."""

    _name: str
    _array: Any

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class InferenceResponse:
    """``pb_utils.InferenceResponse``."""

    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self._tensors = output_tensors or []
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


pb_utils = SimpleNamespace(
    TritonError=TritonError,
    Tensor=Tensor,
    InferenceResponse=InferenceResponse,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
)


class ResponseSender:
    """``InferenceResponseSender``: refuses what the binding refuses. ``gate`` makes it as slow as a test wants."""

    def __init__(self, *, gate: threading.Event | None = None, failures: int = 0) -> None:
        self.sent: list[tuple[InferenceResponse, int]] = []
        self.cancelled = False
        self.questions = 0
        self.arrived = threading.Event()
        self._gate = gate
        self._failures = failures
        self._final = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.arrived.set()
        if self._gate is not None:
            assert self._gate.wait(5)
        if self._final:
            raise RuntimeError("Unable to send response. Response sender has been closed.")
        if flags not in (0, 1):
            raise RuntimeError("Unable to send response. Unsupported flag provided.")
        if response is None and flags == 0:
            raise RuntimeError("Inference Response object must be provided when the response flags is set to zero.")
        if self._failures:
            self._failures -= 1
            raise RuntimeError("Failed to send the response")
        self._final = flags == 1
        assert response is not None
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        self.questions += 1
        return self.cancelled

    @property
    def texts(self) -> list[list[str]]:
        """text_output of each response; errors as their message."""
        return [
            [response.error().message()]  # type: ignore[union-attr]
            if response.has_error()
            else [value.decode() for value in response.output_tensors()[0].as_numpy().reshape(-1)]
            for response, _ in self.sent
        ]

    @property
    def flags(self) -> list[int]:
        return [flags for _, flags in self.sent]


@dataclass
class Log:
    """``pb_utils.Logger``."""

    errors: list[str] = field(default_factory=list)

    def log_info(self, message: str) -> None: ...
    def log_warn(self, message: str) -> None: ...
    def log_error(self, message: str) -> None:
        self.errors.append(message)


class Engine:
    """What we ask of vLLM's AsyncLLM outside of generate. Placeholders are ``<image>`` and ``<video>``."""

    def __init__(self, generation_config: Mapping[str, Any] | None = None) -> None:
        self.model_config = SimpleNamespace(
            get_diff_sampling_param=lambda: dict(generation_config or {}),
            hf_config=SimpleNamespace(),
            is_multimodal_model=False,
        )
        dummy = SimpleNamespace(
            get_dummy_text=lambda counts: "".join(f"<{name}>" * count for name, count in counts.items())
        )
        self.renderer = SimpleNamespace(get_mm_processor=lambda: SimpleNamespace(dummy_inputs=dummy))
        self.loaded: list[Any] = []
        self.adapter_error: Exception | None = None

    async def add_lora(self, request: Any) -> None:
        if self.adapter_error is not None:
            raise self.adapter_error
        self.loaded.append(request)

    async def remove_lora(self, number: int) -> None:
        self.loaded = [request for request in self.loaded if request.lora_int_id != number]


@dataclass
class Logprob:
    """vLLM's Logprob."""

    logprob: float
    rank: int = 1
    decoded_token: str = "t"


@dataclass
class CompletionOutput:
    """vLLM's CompletionOutput, in the fields that are read."""

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """vLLM's RequestOutput, in the fields that are read."""

    outputs: list[CompletionOutput]
    prompt_token_ids: tuple[int, ...] | None = (1, 2, 3)
    finished: bool = False
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
