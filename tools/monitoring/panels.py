"""The panels of the dashboard, each declared once: the dashboard, its check and its image are made from them."""

from __future__ import annotations

from typing import NamedTuple

_MODEL = '{model=~"$model"}'
_RATE = "[$__rate_interval]"


class Query(NamedTuple):
    """One PromQL expression; ``legend`` is a template of Grafana's, with names of labels in double braces."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A chart over time. ``unit`` is Grafana's name of one: short, s, percentunit, reqps, bytes."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]


class Row(NamedTuple):
    """Panels below a heading."""

    title: str
    panels: tuple[Panel, ...]


def rate(name: str, by: str = "model", labels: str = _MODEL) -> str:
    """Per second, of all series with the same ``by``."""
    return f"sum by ({by}) (rate({name}{labels}{_RATE}))"


def quantiles(name: str, labels: str = _MODEL) -> tuple[Query, ...]:
    """Median and 99th percentile of a histogram."""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by (model, le) (rate({name}_bucket{labels}{_RATE})))",
            f"{{{{model}}}} p{round(share * 100)}",
        )
        for share in (0.5, 0.99)
    )


def _mean(name: str, legend: str = "{{model}}") -> Query:
    return Query(f"{rate(name + '_sum')} / ({rate(name + '_count')} > 0)", legend)


_TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests",
            "reqps",
            "Requests that ended, by how they ended.",
            (
                Query(rate("vllm_custom:requests_success_total"), "{{model}} success"),
                Query(rate("vllm_custom:requests_failed_total", "model, code"), "{{model}} {{code}}"),
            ),
        ),
        Panel(
            "Tokens per second",
            "short",
            "Prompt tokens computed, and tokens generated.",
            (
                Query(rate("vllm:prompt_tokens_total"), "{{model}} prompt"),
                Query(rate("vllm:generation_tokens_total"), "{{model}} generated"),
            ),
        ),
        Panel(
            "In progress",
            "short",
            "Sequences that MAX_INFLIGHT_REQUESTS counts, and of these what the scheduler runs and lets wait.",
            (
                Query(f"sum by (model) (vllm_custom:sequences_in_flight{_MODEL})", "{{model}} in flight"),
                Query(f"sum by (model) (vllm:num_requests_running{_MODEL})", "{{model}} running"),
                Query(f"sum by (model) (vllm:num_requests_waiting{_MODEL})", "{{model}} waiting"),
            ),
        ),
    ),
)
_LATENCY = Row(
    "Latency",
    (
        Panel(
            "Time to first token",
            "s",
            "From a request's arrival at the engine to its first token.",
            quantiles("vllm:time_to_first_token_seconds"),
        ),
        Panel(
            "Time between tokens",
            "s",
            "Between two tokens of one sequence.",
            quantiles("vllm:inter_token_latency_seconds"),
        ),
        Panel(
            "Whole request",
            "s",
            "From a request's arrival at this backend to its final response, media included.",
            quantiles("vllm_custom:request_seconds"),
        ),
        Panel(
            "Where the time goes",
            "s",
            "Mean time of a request in the scheduler's queue, in prefill and in decode.",
            (
                _mean("vllm:request_queue_time_seconds", "{{model}} queue"),
                _mean("vllm:request_prefill_time_seconds", "{{model}} prefill"),
                _mean("vllm:request_decode_time_seconds", "{{model}} decode"),
            ),
        ),
    ),
)
_ENGINE = Row(
    "Engine",
    (
        Panel(
            "KV cache in use",
            "percentunit",
            "Share of the KV cache's blocks that requests hold.",
            (Query(f"max by (model) (vllm:kv_cache_usage_perc{_MODEL})", "{{model}}"),),
        ),
        Panel(
            "Prefix cache hits",
            "percentunit",
            "Share of prompt tokens that were found in the prefix cache.",
            (
                Query(
                    f"{rate('vllm:prefix_cache_hits_total')} / ({rate('vllm:prefix_cache_queries_total')} > 0)",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Preemptions",
            "short",
            "Requests per second that lost their place in the KV cache and are computed again.",
            (Query(rate("vllm:num_preemptions_total"), "{{model}}"),),
        ),
        Panel(
            "Tokens per step",
            "short",
            "Mean number of tokens that one step of the engine computes.",
            (_mean("vllm:iteration_tokens_total"),),
        ),
        Panel(
            "Finish reasons",
            "reqps",
            "What ended sequences.",
            (Query(rate("vllm:request_success_total", "model, finished_reason"), "{{model}} {{finished_reason}}"),),
        ),
        Panel(
            "Pieces per response",
            "short",
            "How many pieces of a stream travel in one response; above 1 the instance is busy (scaling).",
            (
                Query(
                    f"{rate('vllm_custom:response_pieces_total')} / ({rate('vllm_custom:responses_total')} > 0)",
                    "{{model}}",
                ),
            ),
        ),
    ),
)
_MEDIA = Row(
    "Media",
    (
        Panel(
            "URLs",
            "reqps",
            "Media URLs by what became of them.",
            (Query(rate("vllm_custom:media_fetches_total", "model, result"), "{{model}} {{result}}"),),
        ),
        Panel(
            "Refused",
            "reqps",
            "Media that a rule or a limit refused.",
            (Query(rate("vllm_custom:media_refusals_total", "model, rule"), "{{model}} {{rule}}"),),
        ),
        Panel(
            "Time to decode",
            "s",
            "One image, video or audio.",
            quantiles("vllm_custom:media_decode_seconds"),
        ),
        Panel(
            "Cache of decoded media",
            "bytes",
            "Bytes that it holds.",
            (Query(f"max by (model) (vllm_custom:media_cache_bytes{_MODEL})", "{{model}}"),),
        ),
    ),
)
_FRONTEND = Row(
    "OpenAI frontend",
    (
        Panel(
            "Requests by status",
            "reqps",
            "Answers of the frontend.",
            (Query(rate("vllm_custom_frontend_requests_total", "status", ""), "{{status}}"),),
        ),
        Panel(
            "Open requests",
            "short",
            "Requests in progress.",
            (Query("sum (vllm_custom_frontend_open_requests)", "open"),),
        ),
        Panel(
            "Servers in rotation",
            "short",
            "Endpoints that are usable, by model.",
            (Query("sum by (model) (vllm_custom_frontend_endpoint_usable)", "{{model}}"),),
        ),
    ),
)
ROWS = (_TRAFFIC, _LATENCY, _ENGINE, _MEDIA, _FRONTEND)
PANELS = tuple(panel for row in ROWS for panel in row.panels)


def concrete(expression: str, *, model: str = ".+", window: str = "1m") -> str:
    """An expression with values in place of Grafana's variables."""
    return expression.replace("$model", model).replace("$__rate_interval", window)
