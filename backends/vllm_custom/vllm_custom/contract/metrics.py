"""Every metric of this backend on Triton's metrics endpoint. Reports and docs/reference.md come from these rows.

Units are in the names, by Prometheus' convention: bytes, seconds, and ``_total`` for what only grows.
"""

from __future__ import annotations

from typing import Final

from vllm_custom.kernel.metrics import Family

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

SUCCESS: Final = "vllm_custom:requests_success_total"
FAILED: Final = "vllm_custom:requests_failed_total"
REQUEST_METRICS: Final = (
    Family(SUCCESS, "COUNTER", "Requests that completed without an error; a look-up, as of a list of models, is none."),
    Family(
        FAILED,
        "COUNTER",
        "Requests that ended with an error.",
        labels=(("code", "Triton's error code, such as INVALID_ARG"),),
    ),
)

SEQUENCES_IN_FLIGHT: Final = "vllm_custom:sequences_in_flight"
REQUEST_SECONDS: Final = "vllm_custom:request_seconds"
RESPONSES: Final = "vllm_custom:responses_total"
RESPONSE_PIECES: Final = "vllm_custom:response_pieces_total"
SERVICE_METRICS: Final = (
    Family(
        SEQUENCES_IN_FLIGHT,
        "GAUGE",
        "Sequences in progress, as MAX_INFLIGHT_REQUESTS counts them; a request has `n` of them.",
    ),
    Family(
        REQUEST_SECONDS,
        "HISTOGRAM",
        "Time from a request's arrival to its final response, in seconds, fetching and decoding of media included.",
        _SECONDS,
    ),
    Family(RESPONSES, "COUNTER", "Responses sent; a stream has several."),
    Family(
        RESPONSE_PIECES,
        "COUNTER",
        "Pieces of output in these responses; what waits of a stream is merged into one response.",
    ),
)

FETCHES: Final = "vllm_custom:media_fetches_total"
REFUSALS: Final = "vllm_custom:media_refusals_total"
FETCHED_BYTES: Final = "vllm_custom:media_fetched_bytes_total"
FETCH_SECONDS: Final = "vllm_custom:media_fetch_seconds"
DECODE_SECONDS: Final = "vllm_custom:media_decode_seconds"
CACHE_LOOKUPS: Final = "vllm_custom:media_cache_lookups_total"
CACHE_BYTES: Final = "vllm_custom:media_cache_bytes"
_RULES = (
    "of URLs: malformed, scheme, credentials, host, port, address, downgrade, redirects; of all media: "
    "items, bytes, pixels, seconds, request_bytes, decode_seconds, memory"
)
MEDIA_METRICS: Final = (
    Family(
        FETCHES,
        "COUNTER",
        "Media URLs.",
        labels=(("result", "fetched, cached, refused, failed, cancelled"),),
    ),
    Family(
        REFUSALS,
        "COUNTER",
        "Refused media.",
        labels=(("rule", _RULES),),
    ),
    Family(FETCHED_BYTES, "COUNTER", "Bytes of media fetched by URL, as transferred."),
    Family(
        FETCH_SECONDS,
        "HISTOGRAM",
        "Time to fetch one media URL, in seconds, excluding time queued for a fetch slot.",
        _SECONDS,
    ),
    Family(
        DECODE_SECONDS,
        "HISTOGRAM",
        "Time to decode one item, in seconds.",
        _SECONDS,
        (("modality", "image, video, audio"),),
    ),
    Family(
        CACHE_LOOKUPS,
        "COUNTER",
        "Look-ups in the cache of decoded media.",
        labels=(("result", "hit, miss, shared (the item was being decoded)"),),
    ),
    Family(CACHE_BYTES, "GAUGE", "Size of the cache of decoded media, in bytes."),
)

FRONTS: Final = "vllm_custom:fronts"
FRONTS_LOST: Final = "vllm_custom:fronts_lost_total"
FRONTS_REPLACED: Final = "vllm_custom:fronts_replaced_total"
FRONT_METRICS: Final = (
    Family(FRONTS, "GAUGE", "Processes that serve the model on one engine, where several share it."),
    Family(FRONTS_LOST, "COUNTER", "Such processes that were killed, or crashed."),
    Family(FRONTS_REPLACED, "COUNTER", "Such processes that have come in the place of lost ones."),
)

ENGINE_UP: Final = "vllm_custom:engine_up"
ENGINE_DEATHS: Final = "vllm_custom:engine_deaths_total"
ENGINE_RESTARTS: Final = "vllm_custom:engine_restarts_total"
ENGINE_METRICS: Final = (
    Family(ENGINE_UP, "GAUGE", "Whether the engine runs: 1, or 0 where it has died."),
    Family(ENGINE_DEATHS, "COUNTER", "How often the engine has died, or stood still and was ended."),
    Family(
        ENGINE_RESTARTS,
        "COUNTER",
        "Tries to start an engine that has died.",
        labels=(("result", "succeeded, failed"),),
    ),
)

METRICS: Final = REQUEST_METRICS + SERVICE_METRICS + MEDIA_METRICS + FRONT_METRICS + ENGINE_METRICS
