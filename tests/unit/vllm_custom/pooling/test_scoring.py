"""Pairs of texts for models that score them, on vLLM's own renderer and processors; no weights are loaded."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_models
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine
from vllm_custom.engine.vllm import pooling as vllm_pooling
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.pooling import PairScorer, PoolingBuilder, RenderedPairs, reject_pooling_request
from vllm_custom.request import InferenceCall, TextPairs, parse_request

pytestmark = [pytest.mark.usefixtures("vllm"), pytest.mark.filterwarnings("ignore")]

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{{ instruction | default('') }}"
)
MAX_TOKENS = 2048
CROSS_ENCODER, EMBEDS, TOKEN_EMBEDS = ("classify",), ("embed", "token_embed"), ("token_embed",)
Scorer = Callable[..., PairScorer]


def text(*values: str | bytes) -> Any:
    return np.array([value.encode() if isinstance(value, str) else value for value in values], dtype=np.object_)


def call(queries: Any, documents: Any, parameters: dict[str, Any] | None = None, **tensors: Any) -> InferenceCall:
    names = [*vllm_pooling.pooling_fields(), *vllm_pooling.scoring_fields(), "temperature"]
    pairs = {"queries": text(*queries), "documents": text(*documents)}
    return parse_request(pairs | tensors, json.dumps(parameters or {}), names)


def pairs(made: InferenceCall) -> TextPairs:
    assert made.pairs is not None
    return made.pairs


@pytest.fixture(scope="module")
def engine(vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Configuration and renderer of a BERT with tokens of single bytes; tests change what the model is said to be."""
    patch = pytest.MonkeyPatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import BertConfig

        registry = importlib.import_module("vllm.model_executor.models.registry")
        patch.setattr(registry, "_run_in_subprocess", lambda function: function())
        patch.setenv("HF_HUB_OFFLINE", "1")
        folder = tmp_path_factory.mktemp("bert")
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = BertConfig(vocab_size=600, max_position_embeddings=MAX_TOKENS, num_labels=1, **sizes)
        config.architectures = ["BertForSequenceClassification"]
        config.save_pretrained(folder)
        make_tokenizer(folder)
        made = tiny_models.engine(folder, runner="pooling")
    made.vllm_config = SimpleNamespace(model_config=made.model_config)
    yield made
    patch.undo()


def make_tokenizer(folder: Path) -> None:
    """Two texts have a separator between them, and the second has a token type of its own."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = tiny_models.tokenizer("", "[CLS]", "[SEP]", pad_token="[PAD]").backend_tokenizer
    special = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", model_input_names=names, model_max_length=MAX_TOKENS
    ).save_pretrained(folder)


@pytest.fixture
def scorer(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    def make(tasks: tuple[str, ...] = CROSS_ENCODER, labels: int = 1, template: str | None = None) -> PairScorer:
        monkeypatch.setattr(engine.model_config.hf_config, "num_labels", labels)
        return PairScorer(seen(engine, tasks), template, max_documents=3)

    return make


def seen(llm: Any, tasks: tuple[str, ...]) -> VllmEngine:
    """``llm`` as an engine of a model with ``tasks``."""
    facts = ModelFacts(
        tasks=tasks,
        pooling_task=vllm_pooling.pooling_task(llm, tasks),
        pooling_fields=vllm_pooling.pooling_fields(),
        scoring_fields=vllm_pooling.scoring_fields(),
    )
    return VllmEngine(llm, facts)


async def render(scorer: PairScorer, made: InferenceCall) -> RenderedPairs:
    scorer.check(made, pairs(made))
    return await scorer.render(made, pairs(made))


def words(engine: Any, rendered: RenderedPairs) -> list[str]:
    return [engine.get_tokenizer().decode(prompt["prompt_token_ids"]) for prompt, _ in rendered.prompts]


class TestInputs:
    def test_one_query_or_one_for_each_document(self) -> None:
        assert pairs(call(["a"], ["b", "三角"])) == TextPairs(("a",), ("b", "三角"))
        assert pairs(call(["a", "b"], ["c", "d"])) == TextPairs(("a", "b"), ("c", "d"))

    def test_an_empty_text_is_a_text(self) -> None:
        assert pairs(call([""], [""])) == TextPairs(("",), ("",))

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"queries": text("a")}, "queries and documents require each other; the request has only queries"),
            ({"documents": text("a")}, "queries and documents require each other; the request has only documents"),
            ({"queries": text(), "documents": text("a")}, "queries: expected at least 1 element, got '0 elements'"),
            ({"queries": text("a"), "documents": text()}, "documents: expected at least 1 element, got '0 elements'"),
            (
                {"queries": text("a", "b"), "documents": text("c")},
                r"queries: expected 1 element, or as many as documents has \(1\), got '2 elements'",
            ),
            (
                {"queries": text("a"), "documents": text("b", b"\xff")},
                r"documents\[1\]: expected UTF-8 text \(byte 0 is not\)",
            ),
            (
                {"queries": text("a"), "documents": text("b"), "text_input": text("c")},
                "exactly one of the inputs text_input, messages, input_ids, prompt_embeds, and queries with",
            ),
            (
                {"queries": text("a"), "documents": text("b"), "image": text("c")},
                "image: cannot be combined with queries and documents; they are text",
            ),
        ],
    )
    def test_mistakes(self, tensors: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            parse_request(tensors, "{}", ())


class TestChecks:
    def test_a_classifier_of_several_classes_scores_no_pairs(self, scorer: Scorer) -> None:
        made = call(["a"], ["b"])
        with pytest.raises(UnsupportedError, match=r"^queries, documents: requires .* is classify with 3 labels"):
            scorer(labels=3).check(made, pairs(made))

    def test_nor_does_one_that_scores_tokens(self, scorer: Scorer) -> None:
        made = call(["a"], ["b"])
        with pytest.raises(UnsupportedError, match="the task of this model is token_classify"):
            scorer(("token_classify",)).check(made, pairs(made))

    def test_a_vllm_that_scores_in_another_way(self, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("io_processor", "protocol"):
            monkeypatch.setitem(sys.modules, f"vllm.entrypoints.pooling.scoring.{module}", None)
        assert vllm_pooling.scoring_fields() == {}
        made = call(["a"], ["b"])
        with pytest.raises(UnsupportedError, match="this vLLM scores pairs through another interface"):
            scorer().check(made, pairs(made))

    def test_the_number_of_documents_is_limited(self, scorer: Scorer) -> None:
        scorer().check(call(["a"], "bcd"), TextPairs(("a",), tuple("bcd")))
        made = call(["a"], "bcde")
        with pytest.raises(
            InvalidRequestError, match=r"documents: .* at most 3 .*SCORE_MAX_DOCUMENTS of this model\), got '4"
        ):
            scorer().check(made, pairs(made))

    @pytest.mark.parametrize(
        ("parameters", "name"),
        [
            ({"dimensions": 8}, "dimensions"),
            ({"task": "classify"}, "task"),
            ({"apply_chat_template": True}, "apply_chat_template"),
            ({"continue_final_message": True}, "continue_final_message"),
            ({"num_frames": 2}, "num_frames"),
        ],
    )
    def test_parameters_of_prompts(self, scorer: Scorer, parameters: dict[str, Any], name: str) -> None:
        made = call(["a"], ["b"], parameters)
        with pytest.raises(InvalidRequestError, match=f"{name}: has no effect on queries and documents"):
            scorer().check(made, pairs(made))

    @pytest.mark.parametrize("parameters", [{"instruction": "a"}, {"chat_template_kwargs": {"a": 1}}])
    @pytest.mark.parametrize("tasks", [CROSS_ENCODER, EMBEDS])
    def test_parameters_of_a_template_that_is_not_there(
        self, scorer: Scorer, tasks: tuple[str, ...], parameters: dict[str, Any]
    ) -> None:
        made = call(["a"], ["b"], parameters)
        with pytest.raises(InvalidRequestError, match=f"{next(iter(parameters))}: requires a score template"):
            scorer(tasks).check(made, pairs(made))

    def test_what_goes_with_pairs(self, engine: Any, scorer: Scorer) -> None:
        options = {"use_activation": False, "truncate_prompt_tokens": 8, "truncation_side": "left", "priority": 1}
        made = call(["a"], ["b"], options | {"max_tokens_per_query": 3, "max_tokens_per_doc": 3, "timeout": 5})
        PoolingBuilder(seen(engine, CROSS_ENCODER), scorer()).check([made, made])

    def test_options_of_pairs_without_them(self, engine: Any, scorer: Scorer) -> None:
        builder = PoolingBuilder(seen(engine, CROSS_ENCODER), scorer())
        made = parse_request({"text_input": text("a")}, '{"max_tokens_per_doc": 5}', ["max_tokens_per_doc"])
        with pytest.raises(InvalidRequestError, match="max_tokens_per_doc: requires the inputs queries and documents"):
            builder.check([made])

    def test_models_that_generate_score_no_pairs(self) -> None:
        with pytest.raises(UnsupportedError, match="queries, documents: requires a pooling model"):
            reject_pooling_request(call(["a"], ["b"]), ())


class TestPrompts:
    async def test_of_a_cross_encoder(self, engine: Any, scorer: Scorer) -> None:
        rendered = await render(scorer(), call(["ab"], ["cde", "f"]))
        assert words(engine, rendered) == ["[CLS]ab[SEP]cde[SEP]", "[CLS]ab[SEP]f[SEP]"]
        # Where the second text begins; the worker makes token types of it.
        assert [params.extra_kwargs["compressed_token_type_ids"] for _, params in rendered.prompts] == [4, 4]
        assert {(params.task, params.use_activation) for _, params in rendered.prompts} == {("classify", True)}

    async def test_a_query_for_each_document(self, engine: Any, scorer: Scorer) -> None:
        rendered = await render(scorer(), call(["ab", "c"], ["d", "e"], {"use_activation": "false"}))
        assert words(engine, rendered) == ["[CLS]ab[SEP]d[SEP]", "[CLS]c[SEP]e[SEP]"]
        assert {params.use_activation for _, params in rendered.prompts} == {False}

    async def test_of_a_score_template(self, engine: Any, scorer: Scorer) -> None:
        made = call(["ab"], ["cd"], {"instruction": "!"})
        rendered = await render(scorer(template=TEMPLATE), made)
        assert words(engine, rendered) == ["[CLS][query]ab[document]cd![SEP]"]

    async def test_of_a_model_that_embeds(self, engine: Any, scorer: Scorer) -> None:
        rendered = await render(scorer(EMBEDS), call(["ab"], ["cde", "f"]))
        assert words(engine, rendered) == ["[CLS]ab[SEP]", "[CLS]cde[SEP]", "[CLS]f[SEP]"]
        assert {params.task for _, params in rendered.prompts} == {"embed"}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"truncate_prompt_tokens": 6}, "[CLS]a[SEP]bc[SEP]"),
            ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, "def[SEP]"),
            ({"max_tokens_per_doc": 2}, "[CLS]a[SEP]bc[SEP]"),
            ({"truncate_prompt_tokens": -1}, "[CLS]a[SEP]bcdef[SEP]"),
        ],
    )
    async def test_cut_short(self, engine: Any, scorer: Scorer, options: dict[str, Any], expected: str) -> None:
        assert words(engine, await render(scorer(), call(["a"], ["bcdef"], options))) == [expected]

    @pytest.mark.parametrize(
        ("tasks", "queries", "documents", "name"),
        [
            (CROSS_ENCODER, ["a"], ["b", "c" * MAX_TOKENS], r"documents\[1\] with its query: "),
            (EMBEDS, ["a"], ["b", "c" * MAX_TOKENS], r"documents\[1\]: "),
            (EMBEDS, ["a", "c" * MAX_TOKENS], ["b", "d"], r"queries\[1\]: "),
        ],
    )
    async def test_too_long_a_text_is_named(
        self, scorer: Scorer, tasks: tuple[str, ...], queries: list[str], documents: list[str], name: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match=f"^{name}.*{MAX_TOKENS}"):
            await render(scorer(tasks), call(queries, documents))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"truncate_prompt_tokens": 0}, r"documents\[0\] with its query: expected text, got an empty prompt"),
            ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens: expected .*, got -2"),
            ({"truncate_prompt_tokens": "few"}, "truncate_prompt_tokens: expected .*, got 'few'"),
            ({"truncation_side": "up"}, "truncation_side: expected .*, got 'up'"),
        ],
    )
    async def test_options_that_cannot_be(self, scorer: Scorer, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            await render(scorer(), call(["a"], ["b"], options))


def pooled(data: Any) -> Any:
    """What the engine gives for one prompt."""
    import torch
    from vllm import PoolingOutput, PoolingRequestOutput

    return PoolingRequestOutput("id", PoolingOutput(torch.tensor(data)), [1, 2], 0, finished=True)


class TestScores:
    @pytest.mark.parametrize(
        ("tasks", "outputs", "expected", "tokens"),
        [
            (CROSS_ENCODER, [[0.5], [0.25]], [0.5, 0.25], 5 + 6),
            (EMBEDS, [[3.0, 0.0], [1.0, 0.0], [1.0, 1.0]], [1.0, 0.5**0.5], 3 + 3 + 4),
            # For each token of the query the nearest one of the document.
            (TOKEN_EMBEDS, [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0]]], [1.0, 5.0], 3 + 3 + 4),
        ],
    )
    async def test_of_each_kind_of_model(
        self, scorer: Scorer, tasks: tuple[str, ...], outputs: Any, expected: list[float], tokens: int
    ) -> None:
        made = scorer(tasks)
        rendered = await render(made, call(["a"], ["b", "cd"]))
        assert len(rendered.prompts) == len(outputs)
        output = await made.output(rendered, [pooled(data) for data in outputs])
        arrays = output.arrays(frozenset({"num_input_tokens", "num_output_tokens"}))
        assert arrays["scores"].dtype == np.float32
        assert arrays["scores"].tolist() == pytest.approx(expected)
        assert (arrays["num_input_tokens"].tolist(), arrays["num_output_tokens"].tolist()) == ([tokens], [0])

    async def test_of_a_model_that_reads_all_documents_at_once(
        self, engine: Any, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """JinaForRanking: one vector for each document and, at last, one for the query."""
        monkeypatch.setattr(type(engine.model_config), "architecture", "JinaForRanking")
        made = scorer(TOKEN_EMBEDS)
        rendered = await render(made, call(["ab"], ["cd", "ef"], {"instruction": "!"}))
        (prompt,) = words(engine, rendered)
        assert [part for part in ("ab", "cd", "ef", "!") if part not in prompt] == []
        output = await made.output(rendered, [pooled([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])])
        assert output.data.tolist() == [0.0, 1.0]
