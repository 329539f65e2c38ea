"""One engine for several fronts: its host process, how fronts find it, and what they have in common."""

from vllm_custom.engine.host.board import Row
from vllm_custom.engine.host.connection import Connection, HostLostError
from vllm_custom.engine.host.finding import end_others, join, join_as_guest, wait_until_gone
from vllm_custom.engine.host.messages import Fronts
from vllm_custom.engine.host.offer import Offer, config_of, guests_announced, offer, offer_of, offers
from vllm_custom.engine.host.sharing import Share, engine_name, fronts_of

__all__ = [
    "Connection",
    "Fronts",
    "HostLostError",
    "Offer",
    "Row",
    "Share",
    "config_of",
    "end_others",
    "engine_name",
    "fronts_of",
    "guests_announced",
    "join",
    "join_as_guest",
    "offer",
    "offer_of",
    "offers",
    "wait_until_gone",
]
