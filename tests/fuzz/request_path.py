"""Generated requests to a whole model on the fake engine: exactly one final response each, and nothing is left.

    PYTHONPATH=backends/vllm_custom python -m tests.fuzz.request_path --runs 100000 --seed 1

Tensors, parameters, JSON and chat messages are made from right ones by one or several changes; clients leave, time runs
out, the engine raises, hangs and fails, responses cannot be sent. Prints what came of them, and what it cost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tests.support import fakes
from tests.support.fake_engine import EngineError, FakeEngine
from tests.support.service_harness import Model, Panic, Sender
from vllm_custom.contract.table import INPUTS, REQUEST_PARAMETERS

AT_ONCE = 64
CODES = {value: name for name, value in vars(fakes.TritonError).items() if isinstance(value, int)}
_NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    -(2**70),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\udcff\ud83d",
    "\0",
    "a" * 5000,
    "<image>" * 9,
    "{{ 7*7 }}",
    "[" * 2000,
    "NaN",
    "1e999",
    "9" * 5000,
    "null",
    '{"a": 1}',
    "http://127.0.0.1:1/x.png",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
    "data:" + ";" * 2000,
    [],
    {},
    [None],
    [[]],
    {"": ""},
    {"\ud800": 1},
    [1] * 3000,
    {str(number): number for number in range(300)},
)
_NAMES = (
    *(spec.name for spec in REQUEST_PARAMETERS),
    "temperature",
    "max_tokens",
    "n",
    "top_p",
    "stop",
    "bad_words",
    "logit_bias",
    "seed",
    "best_of",
    "id",
    "X-Request-Id",
    "__class__",
    "\ud800",
    "",
)


def _png() -> str:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


_IMAGE = _png()


def _right(chance: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and parameters of a request that is right."""
    parameters: dict[str, Any] = {"max_tokens": chance.randrange(1, 6), "temperature": 0.5}
    kind = chance.randrange(6)
    if kind == 0:
        return {"text_input": "one two three"}, parameters
    if kind == 1:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_IMAGE}"}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "what is it"}]}]
        return {"messages": json.dumps(messages)}, parameters
    if kind == 2:
        return {"text_input": "what is it", "image": [_IMAGE] * chance.randrange(1, 3)}, parameters
    if kind == 3:
        body = {"model": "model", "messages": [{"role": "user", "content": "hi"}], "stream": chance.random() < 0.5}
        return {"openai_request": json.dumps({"path": "/v1/chat/completions", "body": body})}, {}
    if kind == 4:
        return {"embedding_request": json.dumps({"input": "hi", "pooling_params": {"dimensions": 4}})}, {}
    return {"text_input": "one two", "stream": True, "sampling_parameters": json.dumps(parameters)}, {}


def _changed_json(chance: random.Random, value: Any) -> Any:
    """One change somewhere in a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return {**value, key: _changed_json(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], _changed_json(chance, value[place]), *value[place + 1 :]]
    if isinstance(value, dict) and chance.random() < 0.5:
        return {**value, chance.choice(_NAMES): chance.choice(_NASTY)}
    return chance.choice(_NASTY)


def _change(chance: random.Random, tensors: dict[str, Any], parameters: dict[str, Any]) -> None:
    """One change of a request."""
    kind = chance.randrange(8)
    name = chance.choice(list(tensors)) if tensors else "text_input"
    if kind == 0:
        parameters[chance.choice(_NAMES)] = chance.choice(_NASTY)
    elif kind == 1 and isinstance(tensors.get(name), str) and tensors[name].startswith(("{", "[")):
        tensors[name] = json.dumps(_changed_json(chance, json.loads(tensors[name])))
    elif kind == 2:
        tensors[chance.choice(INPUTS).name] = _tensor(chance)
    elif kind == 3:
        tensors[name] = _tensor(chance)
    elif kind == 4:
        tensors.pop(name, None)
    elif kind == 5:
        tensors["sampling_parameters"] = json.dumps({chance.choice(_NAMES): chance.choice(_NASTY)})
    elif kind == 6:
        tensors[name] = _cut(chance, tensors.get(name))
    else:
        parameters[chance.choice(_NAMES)] = json.dumps(chance.choice(_NASTY))


def _tensor(chance: random.Random) -> Any:
    """Values, types and shapes of all kinds."""
    nasty = chance.choice(_NASTY)
    choices: tuple[Any, ...] = (
        np.array([], dtype=np.object_),
        np.array([[b"a", b"b"]], dtype=np.object_),
        np.array([b"\xff\xfe", bytes(300)], dtype=np.object_),
        np.array([True, False]),
        np.array([np.nan, np.inf], dtype=np.float32),
        np.array(7, dtype=np.int64),
        np.zeros((2, 3, 4), dtype=np.float32),
        np.array([json.dumps(nasty).encode()], dtype=np.object_),
        np.array([str(nasty).encode("utf-8", "surrogatepass")] * 2, dtype=np.object_),
    )
    return chance.choice(choices)


def _cut(chance: random.Random, value: Any) -> Any:
    """A text without a part of it, or bytes that are no text."""
    if not isinstance(value, str) or not value:
        return _tensor(chance)
    place = chance.randrange(len(value))
    return np.array([value.encode()[:place] + chance.choice([b"", b"\xff", b"\0", b'"'])], dtype=np.object_)


@dataclass
class Behaviour:
    """What the engine does with requests, by chance; shared by all that run."""

    chance: random.Random
    odds: float = 0.15
    errors: tuple[Callable[[], BaseException], ...] = (
        lambda: EngineError("too long \ud800"),
        lambda: RuntimeError("a defect at <object at 0x7f00>"),
        lambda: Panic("capacity overflow"),
        lambda: MemoryError(),
        lambda: SystemExit(3),
        lambda: asyncio.CancelledError(),
    )

    def before(self, *_: Any) -> Any:
        luck = self.chance.random()
        if luck < self.odds / 2:
            raise self.chance.choice(self.errors)()
        return self._hang() if luck < self.odds * 0.6 else None

    async def _hang(self) -> None:
        await asyncio.sleep(self.chance.choice([0.0, 0.02, 60.0]))


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """As vLLM's application behaves: an answer in one or several parts, none at all, or an error."""
    message = await receive()
    luck = len(message.get("body", b"")) % 5
    if luck == 0:
        raise RuntimeError("the application fails")
    if luck == 1:
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(luck):
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        if luck == 4 and number == 2:
            raise Panic("in the middle")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Report:
    """What came of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    without_one_final: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest_unload_seconds: float = 0.0
    grown_mib: float = 0.0

    def lines(self) -> str:
        """For people to read."""
        total = sum(self.outcomes.values())
        listed = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"{total} requests in {self.seconds:.0f} s: {listed}\n{len(self.without_one_final)} without exactly one "
            f"final response; unloaded in {self.slowest_unload_seconds:.2f} s at most; the process grew by "
            f"{self.grown_mib:.0f} MiB"
        )


def run(runs: int, seed: int, *, per_model: int = 5000) -> Report:
    """``runs`` requests, on a new model after each ``per_model`` of them, with and without decoupled responses."""
    report, began, grown = Report(), time.monotonic(), _resident_mib()
    for start in range(0, runs, per_model):
        chance = random.Random(seed * 1_000_003 + start)
        behaviour = Behaviour(random.Random(seed + start))
        engine = FakeEngine(before_token=behaviour.before, before_render=behaviour.before, application=_application)
        with Model(engine, decoupled=chance.random() < 0.7, MEDIA_CONCURRENCY="2") as model:
            _requests(model, chance, min(per_model, runs - start), report)
            model.settle()
            ended = time.monotonic()
        report.slowest_unload_seconds = max(report.slowest_unload_seconds, time.monotonic() - ended)
    report.seconds = time.monotonic() - began
    report.grown_mib = _resident_mib() - grown
    return report


def _requests(model: Model, chance: random.Random, count: int, report: Report) -> None:
    open_: list[tuple[Sender, str]] = []
    for number in range(count):
        tensors, parameters = _right(chance)
        for _ in range(chance.choice([0, 1, 1, 2, 4])):
            _change(chance, tensors, parameters)
        text = json.dumps(parameters)
        if chance.random() < 0.03:
            text = text[: chance.randrange(len(text) + 1)]
        sender = Sender(failures=chance.choice([0] * 30 + [1]))
        model.submit(
            tensors.pop("text_input", None),
            text,
            # The few that hang are ended by their own time or by a client that leaves.
            timeout_us=chance.choice([200_000, 400_000]),
            sender=sender,
            request_id=chance.choice(["", "mine", "图", "\ud800", "x" * 999]),
            **tensors,
        )
        open_.append((sender, f"{number}: {text[:200]} {sorted(tensors)}"))
        if chance.random() < 0.05:
            sender.cancelled = True
        if len(open_) >= AT_ONCE:
            _collect(open_.pop(0), report)
    for item in open_:
        _collect(item, report)


def _collect(item: tuple[Sender, str], report: Report) -> None:
    sender, about = item
    try:
        sender.wait()
    except AssertionError:
        report.without_one_final.append(about)
        return
    if sender.flags.count(1) != 1 or sender.flags[-1] != 1:
        report.without_one_final.append(about)
    error = sender.error
    report.outcomes[CODES[error.code()] if error is not None else "answered"] += 1


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = run(options.runs, options.seed)
    print(report.lines())
    for about in report.without_one_final[:10]:
        print(about.encode("ascii", "backslashreplace").decode())
    raise SystemExit(1 if report.without_one_final else 0)


if __name__ == "__main__":
    main()
