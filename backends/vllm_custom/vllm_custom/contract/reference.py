"""Write docs/reference.md from the contract: ``python -m vllm_custom.contract.reference > docs/reference.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from vllm_custom.contract.metrics import METRICS
from vllm_custom.contract.specs import ConfigParameterSpec, TensorSpec, Trust, Use
from vllm_custom.contract.table import CONFIG_PARAMETERS, INPUTS, OUTPUTS, REQUEST_PARAMETERS, VLLM_FIELDS
from vllm_custom.contract.tensors import EXCLUSIONS

_HEAD = """# Reference

Generated from the declarations in `backends/vllm_custom/vllm_custom/contract`; a test keeps the two equal.
"Official" marks what the official vLLM backend has under the same name, with the same meaning.
"""

_INPUTS = """
## Inputs

All of them are optional in the completed config.pbtxt; your own declarations there are kept. Dims are without the batch
dimension, which is added where `max_batch_size` is greater than 0.
"""

_EXCLUSIONS = """
These cannot be combined in one request:
"""

_OUTPUTS = """
## Outputs

`text_output` is in every response of a generative model; the others where the input `return_<name>` is true. In a
stream each response contains only new tokens, so that text and token counts add up. A pooling model answers with
`embedding` or `scores`, and with `text_output` only to an `embedding_request`: the vector as JSON.
"""

_REQUEST = """
## Request parameters

In `parameters` of a request, at the top level of the JSON of `generate` and `generate_stream`, or as one JSON object in
the input `sampling_parameters` (which wins). The fields of the installed vLLM's `SamplingParams` are accepted, such as
`temperature`, `max_tokens`, `top_p`, `stop`, `seed`, `n` and `logprobs`, and the ones below. Lists and objects may be
JSON strings, since Triton's endpoints take no nested values there; strings that hold numbers or booleans are read as
such. Defaults are those of `vllm serve`: the model's generation_config, `max_tokens` 16 for a raw prompt, and the rest
of the context for a templated one. An unknown name is refused.

A pooling model takes the fields of vLLM's `PoolingParams` instead: `task` (`embed`, `classify`, `token_embed` or
`token_classify`, as far as the model has it; default: the model's first), `dimensions`, and `use_activation` (false:
neither normalised nor turned into probabilities).

With `queries` and `documents` it takes those of vLLM's score request: `use_activation`, `truncate_prompt_tokens` (the
most tokens of a prompt, which is a pair for a cross-encoder; -1: as many as the model takes), `truncation_side` (`left`
or `right`), `max_tokens_per_query` and `max_tokens_per_doc` (0: no limit), and `instruction`. From the table
below it takes {for_pairs}.
`instruction` and `chat_template_kwargs` are for the score template in CHAT_TEMPLATE.

A parameter may also be a typed tensor: declare an input of its name in config.pbtxt, such as
`{{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}` or `stop` as `TYPE_STRING` with dims
`[ -1 ]` (a list takes all elements). Its value wins over the other forms.
"""

_TRUST = """
Who may set them: **free**, every client; **bounded**, every client, within the config parameters that are named;
**operator's**, no client until the config parameter that is named allows it. The error names the refused parameter. The
same rules apply to the body of `openai_request`.
"""

_FIELDS = """
### Fields of vLLM's SamplingParams and PoolingParams

A field that only a newer vLLM has is the operator's. Free are {free}. The others:
"""

_LIMITS = """
## Limits

Each limit is a config parameter, is checked before the work that it bounds, and has a default that ordinary requests
never reach; the error names the parameter. In addition, text that cannot fit into the model's context is refused
before it is tokenised: a prompt, the messages of a chat together, a query or a document of more
characters than `max_model_len` times the longest token of the tokenizer (16 times that where
`truncate_prompt_tokens`, `max_tokens_per_query` or `max_tokens_per_doc` cuts it).
"""

_CONFIG = """
## Config parameters

In config.pbtxt: `parameters { key: "MEDIA_MAX_BYTES" value: { string_value: "1000000" } }`. The
[limits](#limits) are set there, too. Unknown keys and bad values fail the model's load. vLLM engine arguments are not
here: they are in model.json, exactly as vLLM names them. Relative paths in model.json and multi_lora.json are taken
from the version folder.
"""

_METRICS = """
## Metrics

With `REPORT_CUSTOM_METRICS`, Triton's metrics endpoint has all of vLLM's metrics under vLLM's names
([metrics](guides/metrics.md)), and these, all with the labels `model` and `version`. Triton 24.10 counts a request that
was answered with an error as a success; these do not.
"""


def reference() -> str:
    """The whole page as Markdown."""
    return "".join(
        (
            _HEAD,
            _INPUTS,
            _tensors(INPUTS),
            _exclusions(),
            _OUTPUTS,
            _tensors(OUTPUTS),
            _request(),
            _TRUST,
            _request_parameters(),
            _fields(),
            _CONFIG,
            _config_parameters(spec for spec in CONFIG_PARAMETERS if not spec.is_limit),
            _LIMITS,
            _config_parameters(spec for spec in CONFIG_PARAMETERS if spec.is_limit),
            _METRICS,
            _metrics(),
        )
    )


def _request() -> str:
    *names, last = (f"`{row.name}`" for row in REQUEST_PARAMETERS if row.use is Use.ALL)
    return _REQUEST.format(for_pairs=f"{', '.join(names)} and {last}")


def _exclusions() -> str:
    rows = ((_code(rule.inputs), _code(rule.others), rule.hint) for rule in EXCLUSIONS)
    return _EXCLUSIONS + _table(("input", "with", "hint"), rows)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _request_parameters() -> str:
    return _table(
        ("name", "type", "default", "official", "who may set it", "meaning"),
        (
            (
                f"`{row.name}`",
                row.type_name,
                row.default,
                _yes(row.official),
                _trust(row.trust, row.by),
                row.meaning,
            )
            for row in REQUEST_PARAMETERS
        ),
    )


def _fields() -> str:
    free = ", ".join(f"`{row.name}`" for row in VLLM_FIELDS if row.trust is Trust.FREE)
    return _FIELDS.format(free=free) + _table(
        ("name", "who may set it", "why"),
        (
            (f"`{row.name}`", _trust(row.trust, row.by), row.reason)
            for row in VLLM_FIELDS
            if row.trust is not Trust.FREE
        ),
    )


def _config_parameters(specs: Iterable[ConfigParameterSpec]) -> str:
    return _table(
        ("name", "type", "default", "official", "meaning"),
        (
            (
                f"`{row.name}`",
                _kind(row.kind) + (f", {row.unit}" if row.unit else ""),
                _default(row.default),
                _yes(row.official),
                row.meaning,
            )
            for row in specs
        ),
    )


def _metrics() -> str:
    return _table(
        ("name", "type", "further labels", "meaning"),
        (
            (
                f"`{row.name}`",
                row.kind.lower(),
                "; ".join(f"`{label}`: {values}" for label, values in row.labels),
                row.description,
            )
            for row in METRICS
        ),
    )


def _trust(trust: Trust, by: Sequence[str]) -> str:
    return trust.value + (f": {', '.join(by)}" if by else "")


def _tensors(specs: Sequence[TensorSpec]) -> str:
    rows = (
        (
            f"`{spec.name}`",
            spec.data_type.removeprefix("TYPE_"),
            str(list(spec.dims)),
            _yes(spec.official),
            spec.meaning,
        )
        for spec in specs
    )
    return _table(("name", "type", "dims", "official", "meaning"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _kind(kind: type) -> str:
    names: dict[type, str] = {tuple: "list", dict: "JSON object"}
    return names.get(kind, kind.__name__)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value:
        return ", ".join(map(str, value))
    return str(value) if value not in ("", (), {}) else "none"


def _yes(flag: bool) -> str:
    return "yes" if flag else ""


if __name__ == "__main__":
    sys.stdout.write(reference())
