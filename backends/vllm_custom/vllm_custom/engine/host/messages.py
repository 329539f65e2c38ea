"""What fronts and the host of their engine say to each other: one JSON object per line over a Unix socket.

A front joins as soon as it starts, which keeps the engine; it attaches when it has vLLM's configuration. Whatever ends
its connection has ended the front. The end of the host's side means that the engine has gone.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Message(msgspec.Struct, tag_field="kind"):
    """One line."""


class Join(Message, tag="join"):
    """A front has started.

    Attributes:
        name: Triton's of the instance, for the log.
        generation: the same for all that Triton has started together.
        guest: it uses the engine while others keep it, and is no instance of Triton's.
    """

    name: str
    generation: int = 0
    guest: bool = False


class Serving(Message, tag="serving"):
    """Triton sends this front requests, and so none any more to those of earlier generations."""


class MakeWay(Message, tag="make_way"):
    """Another engine of the same model is to have the devices: this one ends."""


class Attach(Message, tag="attach"):
    """A front wants to use the engine.

    Attributes:
        config: vLLM's configuration, pickled as vLLM itself does it for its own processes. The first one starts the
            engine.
        log_stats: whether the engine reports its statistics.
        fronts: how many fronts the model has, as its configuration says.
        environment: variables that the engine's processes have to see as this front does.
    """

    config: bytes
    log_stats: bool
    fronts: int
    environment: dict[str, str]


class Number(Message, tag="number"):
    """A front asks for the number of ``key``: the same for all who ask, and another one for each key."""

    key: str
    at_least: int


class Leave(Message, tag="leave"):
    """A front ends as it should."""


class Slot(Message, tag="slot"):
    """The engine runs, and this is the front's own place among its clients. The answer to :class:`Attach`."""

    index: int
    addresses: dict[str, str]


class Refused(Message, tag="refused"):
    """The engine did not start, or has no place left. The answer to :class:`Attach`."""

    reason: str


class Numbered(Message, tag="numbered"):
    """The answer to :class:`Number`."""

    key: str
    number: int


class FrontLost(Message, tag="front_lost"):
    """Another front has ended as it should not have. One of those that are left is to do something about it."""

    name: str
    act: bool


class Fronts(Message, tag="fronts"):
    """What has become of the fronts. It goes to one of them, which counts for all.

    Attributes:
        attached: how many there are now.
        lost: how many have ended as they should not have, since this was told the last time.
        replaced: for how many of those that were lost another one has come since then.
    """

    attached: int
    lost: int
    replaced: int


class Retire(Message, tag="retire"):
    """Others serve in this front's place: it ends when its requests have ended."""


class Replaced(Message, tag="replaced"):
    """The engine is about to end for another one of the same model: nothing is to begin any more."""


FromFront: TypeAlias = Join | Attach | Number | Leave | Serving | MakeWay
FromHost: TypeAlias = Slot | Refused | Numbered | FrontLost | Fronts | Retire | Replaced

_FROM_FRONT: msgspec.json.Decoder[FromFront] = msgspec.json.Decoder(FromFront)
_FROM_HOST: msgspec.json.Decoder[FromHost] = msgspec.json.Decoder(FromHost)


def encode(message: Message) -> bytes:
    """The line, with its end."""
    return msgspec.json.encode(message) + b"\n"


def from_front(line: bytes) -> FromFront:
    """Raises msgspec.MsgspecError where it is none."""
    return _FROM_FRONT.decode(line)


def from_host(line: bytes) -> FromHost:
    """Raises msgspec.MsgspecError where it is none."""
    return _FROM_HOST.decode(line)
