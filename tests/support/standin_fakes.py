"""Stand-ins for what Triton hands to a model: the calls that the package makes, and no more."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class FakeTensor:
    def __init__(self, name: str, values: list[Any], dtype: Any = np.object_) -> None:
        self._name = name
        self._array = np.array(values, dtype=dtype)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class FakeSender:
    """Records what is sent and when it was asked about cancellation."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.cancelled = False
        self.asked = 0
        self.asked_after_final = False
        self.final = threading.Event()

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.final.is_set(), "a response after the final one"
        self.sent.append((response, flags))
        if flags:
            self.final.set()

    def is_cancelled(self) -> bool:
        self.asked += 1
        self.asked_after_final |= self.final.is_set()
        return self.cancelled


class FakeRequest:
    """Text becomes bytes, as a client's STRING tensors are; bool becomes a BOOL tensor."""

    def __init__(self, parameters: str = "{}", **tensors: Any) -> None:
        self._parameters = parameters
        self._tensors = []
        for name, value in tensors.items():
            values = value if isinstance(value, list) else [value]
            encoded = [item.encode() if isinstance(item, str) else item for item in values]
            dtype = np.bool_ if isinstance(value, bool) else np.object_
            self._tensors.append(FakeTensor(name, encoded, dtype))
        self.sender = FakeSender()

    def inputs(self) -> list[Any]:
        return list(self._tensors)

    def parameters(self) -> str:
        return self._parameters

    def request_id(self) -> str:
        return ""

    def get_response_sender(self) -> FakeSender:
        return self.sender


class FakeLogger:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log_error(self, message: str) -> None:
        self.lines.append(message)

    log_warn = log_info = log_verbose = log_error
