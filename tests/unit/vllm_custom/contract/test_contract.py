"""The contract table, and what is made of it."""

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vllm_custom
from tests.support import fakes
from tools.installer.paths import CHECKOUT
from vllm_custom.contract import names as tensor_names
from vllm_custom.contract.reference import reference
from vllm_custom.contract.request_parameters import RequestParameters, names_for
from vllm_custom.contract.specs import Trust, Use
from vllm_custom.contract.table import CONFIG_PARAMETERS, INPUTS, OUTPUTS, REQUEST_PARAMETERS, VLLM_FIELDS
from vllm_custom.contract.tensors import EXCLUSIONS
from vllm_custom.engine.vllm import pooling, sampling
from vllm_custom.errors import ConfigError
from vllm_custom.triton.autocomplete import auto_complete

PACKAGE = Path(vllm_custom.__file__).parent
REFERENCE = CHECKOUT / "docs" / "reference.md"
# What the official backend (r26.01) completes: name, type, dims.
OFFICIAL_INPUTS = [
    ("text_input", "TYPE_STRING", [1]),
    ("image", "TYPE_STRING", [-1]),
    ("stream", "TYPE_BOOL", [1]),
    ("sampling_parameters", "TYPE_STRING", [1]),
    ("exclude_input_in_output", "TYPE_BOOL", [1]),
    ("return_finish_reason", "TYPE_BOOL", [1]),
    ("return_cumulative_logprob", "TYPE_BOOL", [1]),
    ("return_logprobs", "TYPE_BOOL", [1]),
    ("return_num_input_tokens", "TYPE_BOOL", [1]),
    ("return_num_output_tokens", "TYPE_BOOL", [1]),
    ("embedding_request", "TYPE_STRING", [1]),
]
OFFICIAL_OUTPUTS = [
    ("text_output", "TYPE_STRING", [-1]),
    ("finish_reason", "TYPE_STRING", [-1]),
    ("cumulative_logprob", "TYPE_FP32", [-1]),
    ("logprobs", "TYPE_STRING", [-1]),
    ("num_input_tokens", "TYPE_UINT32", [1]),
    ("num_output_tokens", "TYPE_UINT32", [-1]),
]
MakeConfig = Callable[[dict[str, Any]], Any]


def _real_binding() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "tritonserver/backends/python/triton_python_backend_utils.py"
    return path if path.is_file() else None


def _real_model_config(config: dict[str, Any]) -> Any:
    path = _real_binding()
    if path is None:
        pytest.skip("Triton's python backend is not installed")
    spec = importlib.util.spec_from_file_location("real_triton_python_backend_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig(json.dumps({"name": "model", "max_batch_size": 0, "input": [], "output": [], **config}))


@pytest.fixture(params=[fakes.ModelConfig, _real_model_config], ids=["fake", "real"])
def make_config(request: pytest.FixtureRequest) -> MakeConfig:
    """The fake, and Triton's own class where it is installed: they have to agree."""
    return request.param  # type: ignore[no-any-return]


def _rows(tensors: list[dict[str, Any]]) -> dict[str, tuple[str, list[int]]]:
    return {tensor["name"]: (tensor["data_type"], tensor["dims"]) for tensor in tensors}


@pytest.mark.parametrize("table", [INPUTS, OUTPUTS, REQUEST_PARAMETERS, CONFIG_PARAMETERS, VLLM_FIELDS])
def test_names_are_unique(table: Any) -> None:
    names = [row.name for row in table]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", [INPUTS, OUTPUTS, REQUEST_PARAMETERS, CONFIG_PARAMETERS])
def test_every_row_says_what_it_means(table: Any) -> None:
    assert all(row.meaning.endswith(".") for row in table)


@pytest.mark.parametrize(("table", "official"), [(INPUTS, OFFICIAL_INPUTS), (OUTPUTS, OFFICIAL_OUTPUTS)])
def test_official_tensors_are_all_there_and_marked(table: Any, official: Any) -> None:
    assert sorted((row.name, row.data_type, list(row.dims)) for row in table if row.official) == sorted(official)


def test_a_declaration_becomes_a_row_with_its_type_and_default_in_words() -> None:
    rows = {row.name: (row.type_name, row.default) for row in REQUEST_PARAMETERS}
    assert list(rows) == list(RequestParameters.model_fields)
    assert rows["guided_choice"] == ("JSON list of strings", "none")
    assert rows["chat_template_kwargs"] == ("JSON object", "{}")
    assert rows["continue_final_message"] == ("bool", "false")
    assert rows["fps"] == ("float", "none, or fps of media_io_kwargs in model.json")
    assert rows["timeout"] == ("int, microseconds", "0 (none)")


@pytest.mark.parametrize("row", [*REQUEST_PARAMETERS, *VLLM_FIELDS], ids=lambda row: row.name)
def test_who_may_set_a_parameter_is_said_by_parameters_that_exist(row: Any) -> None:
    assert set(row.by) <= {spec.name for spec in CONFIG_PARAMETERS}
    assert bool(row.by) or row.trust is not Trust.OPERATOR
    assert not row.by or row.trust in (Trust.BOUNDED, Trust.OPERATOR)


def test_names_of_tensors_are_written_in_the_contract_only() -> None:
    """But for names that mean something else as well."""
    modalities = {"image", "video", "audio"}
    of_openai = {"messages", "stream", "queries", "documents", "image_embeds", "tool_calls", "reasoning"}
    of_vllm = {"logprobs", "prompt_logprobs", "bad_words", "prompt_embeds"}
    names = {row.name for row in (*INPUTS, *OUTPUTS)} - modalities - of_openai - of_vllm
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("contract", "kernel")  # the official ones are in the kernel
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []


def test_every_name_is_that_of_a_tensor() -> None:
    known = {row.name for row in (*INPUTS, *OUTPUTS)}
    assert {value for name, value in vars(tensor_names).items() if name.isupper() and isinstance(value, str)} == {
        *(name for name in known if not name.startswith(tensor_names.RETURN_PREFIX)),
        tensor_names.RETURN_PREFIX,
    }
    assert {name for rule in EXCLUSIONS for name in (*rule.inputs, *rule.others)} <= known


def test_every_parameter_of_a_chat_says_that_it_is_for_prompts() -> None:
    """continue_final_message was ignored without a word where a request had documents."""
    assert names_for(Use.ALL) == {
        "lora_name",
        "chat_template_kwargs",
        "priority",
        "timeout",
        "traceparent",
        "tracestate",
    }


def test_limits_are_in_one_table() -> None:
    page = reference()
    limits = page[page.index("## Limits") :]
    assert {spec.name for spec in CONFIG_PARAMETERS if f"| `{spec.name}` |" in limits} == {
        spec.name for spec in CONFIG_PARAMETERS if spec.is_limit
    }
    assert all(page.count(f"| `{spec.name}` |") == 1 for spec in CONFIG_PARAMETERS)


@pytest.mark.usefixtures("vllm")
def test_every_field_of_the_installed_vllm_has_been_judged() -> None:
    fields = {**sampling.sampling_fields(), **pooling.pooling_fields(), **pooling.scoring_fields()}
    assert set(fields) - {spec.name for spec in VLLM_FIELDS} == set()


def test_config_defaults_have_their_kind_and_are_allowed() -> None:
    for row in CONFIG_PARAMETERS:
        assert type(row.default) is row.kind
        assert row.kind is not int or row.default >= row.minimum


def test_the_reference_page_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), (
        "run: python -m vllm_custom.contract.reference > docs/reference.md, in backends/vllm_custom"
    )


def test_a_bare_config_gets_the_whole_contract(make_config: MakeConfig) -> None:
    config = auto_complete(make_config({})).as_dict()
    assert _rows(config["input"]) == {row.name: (row.data_type, list(row.dims)) for row in INPUTS}
    assert _rows(config["output"]) == {row.name: (row.data_type, list(row.dims)) for row in OUTPUTS}
    assert all(tensor["optional"] for tensor in config["input"])
    assert not any("optional" in tensor for tensor in config["output"])
    assert config["model_transaction_policy"] == {"decoupled": True}


def test_completing_twice_changes_nothing(make_config: MakeConfig) -> None:
    once = json.dumps(auto_complete(make_config({})).as_dict())
    assert json.dumps(auto_complete(make_config(json.loads(once))).as_dict()) == once


def test_declared_tensors_stay_as_they_are(make_config: MakeConfig) -> None:
    text = {"name": "text_input", "data_type": "TYPE_STRING", "dims": [-1], "optional": False}
    stream = {"name": "stream", "data_type": "TYPE_INT32", "dims": [1], "optional": True}
    extra = {"name": "customer", "data_type": "TYPE_STRING", "dims": [1]}
    output = {"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}
    more = {"name": "score", "data_type": "TYPE_FP32", "dims": [4]}
    config = auto_complete(make_config({"input": [text, extra, stream], "output": [more, output]})).as_dict()
    assert config["input"][:3] == [text, extra, stream]
    assert config["output"][:2] == [more, output]
    assert len(config["input"]) == len(INPUTS) + 1
    assert len(config["output"]) == len(OUTPUTS) + 1


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_users_transaction_policy_stays(make_config: MakeConfig, decoupled: bool) -> None:
    policy = {"decoupled": decoupled}
    config = auto_complete(make_config({"model_transaction_policy": dict(policy)})).as_dict()
    assert config["model_transaction_policy"] == policy


@pytest.mark.parametrize("size", [0, 8])
def test_the_batch_size_is_left_alone(make_config: MakeConfig, size: int) -> None:
    assert auto_complete(make_config({"max_batch_size": size})).as_dict()["max_batch_size"] == size


def test_the_response_cache_of_triton_is_refused(make_config: MakeConfig) -> None:
    """It gave the answer of max_tokens 1 to a request with max_tokens 16: parameters are not in its key."""
    config = make_config({"response_cache": {"enable": True}, "model_transaction_policy": {"decoupled": False}})
    with pytest.raises(ConfigError, match="response_cache: expected enable: false, got enable: true"):
        auto_complete(config)


@pytest.mark.parametrize("config", [{}, {"response_cache": {"enable": False}}, {"response_cache": {}}])
def test_a_cache_that_is_off_is_none(make_config: MakeConfig, config: dict[str, Any]) -> None:
    assert "output" in auto_complete(make_config(config)).as_dict()
