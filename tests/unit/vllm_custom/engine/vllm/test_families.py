"""Prompts for the processors and templates of several families of models, by vLLM's own renderer."""

from __future__ import annotations

import asyncio
import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import tiny_models
from tests.support.images import BLUE, RED, encode
from vllm_custom.chat import PromptBuilder
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.engine.vllm import VllmEngine, install_connector, media, prompts
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.request import ClientRules, InferenceCall, ProcessorBounds, parse_request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("vllm"),
    # The libraries' own, about what they read and write here.
    pytest.mark.filterwarnings("ignore"),
]

HANDLES = MediaHandles()


class Model:
    """One family's prompt builder, on the real renderer."""

    def __init__(self, family: str, folder: Path, **options: Any) -> None:
        make, self.placeholder = tiny_models.FAMILIES[family]
        make(folder)
        llm = self.llm = tiny_models.engine(folder, **options)
        self.limits = media.media_limits(llm)
        has_template = prompts.chat_template_of(llm) is not None
        self.engine = VllmEngine(llm, ModelFacts(media_limits=self.limits, has_chat_template=has_template))
        self.media = MediaLoader(Settings.from_model_config({"name": family}), self.limits)
        self.prompts = PromptBuilder(self.engine, self.media, HANDLES, None)

    async def render(self, call: InferenceCall) -> Any:
        return (await self.prompts.render(call, self.prompts.plan(call))).engine_input


@pytest.fixture(scope="module")
def models(vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    patch = pytest.MonkeyPatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = importlib.import_module("vllm.model_executor.models.registry")
        # vLLM looks at each model's class in a process of its own, which takes ten seconds each.
        patch.setattr(registry, "_run_in_subprocess", lambda function: function())
        patch.setenv("VLLM_MEDIA_CONNECTOR", "http")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_MAX_IMAGE_PIXELS", "1")
        install_connector(HANDLES, 50_000_000, 30)
        made = {family: Model(family, tmp_path_factory.mktemp(family)) for family in tiny_models.FAMILIES}
    yield made
    for model in made.values():
        model.media.close()
    patch.undo()


def call(text: str, images: int, parameters: str = "{}") -> InferenceCall:
    files = [encode(Image.new("RGB", (28, 28), colour)) for colour in (RED, BLUE)][:images]
    tensors = {"text_input": np.array([text.encode()], np.object_), "image": np.array(files, np.object_)}
    return parse_request(tensors, parameters, ())


FAMILIES = pytest.mark.parametrize("family", list(tiny_models.FAMILIES))
WITH_PLACEHOLDERS = pytest.mark.parametrize(
    "family", [family for family, (_, placeholder) in tiny_models.FAMILIES.items() if placeholder]
)


@FAMILIES
def test_the_placeholder_is_what_the_processor_looks_for(models: dict[str, Model], family: str) -> None:
    model = models[family]
    for number in (1, 2):
        assert model.engine.placeholder("image", number) == model.placeholder


@FAMILIES
async def test_a_prompt_without_placeholders_gets_its_images(models: dict[str, Model], family: str) -> None:
    model = models[family]
    count = min(2, model.limits["image"])
    rendered = await model.render(call("hi", count))
    assert len(rendered["mm_placeholders"]["image"]) == count


@WITH_PLACEHOLDERS
async def test_a_prompt_with_placeholders_is_taken_as_it_is(models: dict[str, Model], family: str) -> None:
    model = models[family]
    request = call(f"first {model.placeholder} second {model.placeholder}", 2)
    assert not model.prompts.plan(request).templated
    places = (await model.render(request))["mm_placeholders"]["image"]
    assert len(places) == 2
    assert places[0].offset < places[1].offset


@WITH_PLACEHOLDERS
@pytest.mark.parametrize(("placeholders", "pictures"), [(1, 2), (2, 1), (1, 0)])
def test_numbers_that_do_not_match_are_told_before_any_work(
    models: dict[str, Model], family: str, placeholders: int, pictures: int
) -> None:
    model = models[family]
    assert model.placeholder
    with pytest.raises(InvalidRequestError) as caught:
        model.prompts.plan(call(f"{model.placeholder * placeholders} hi", pictures))
    assert f"expected {pictures} image placeholder(s) ({model.placeholder})" in str(caught.value)
    assert f"got {placeholders}" in str(caught.value)


async def test_a_model_that_puts_images_in_by_itself_takes_any_prompt(models: dict[str, Model]) -> None:
    model, raw = models["paligemma"], call("hi", 1, '{"apply_chat_template": false}')
    assert not model.prompts.plan(raw).templated
    assert len((await model.render(raw))["mm_placeholders"]["image"]) == 1
    with pytest.raises(InvalidRequestError, match="at most 1 item"):
        model.prompts.plan(call("hi", 2))


def embeds_call(values: Any, grid: Any = None, text: str = "hi") -> InferenceCall:
    tensors = {"text_input": np.array([text.encode()], np.object_), "image_embeds": values}
    return parse_request(tensors | ({} if grid is None else {"image_grid_thw": grid}), "{}", ())


@pytest.mark.parametrize(
    ("family", "layout", "grid"),
    [
        ("llava", EmbedsLayout(64, None), None),
        ("qwen3_vl", EmbedsLayout(128, 2), np.array([[1, 4, 4]])),  # features of two depths side by side
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["template", "placeholder"])
async def test_embeddings_take_the_place_of_an_image(
    models: dict[str, Model], tmp_path: Path, family: str, layout: EmbedsLayout, grid: Any, own: bool
) -> None:
    model = Model(family, tmp_path, enable_mm_embeds=True)
    assert models[family].engine.embeds_layout() is None
    assert model.engine.embeds_layout() == layout
    values = np.random.default_rng(1).random((4, layout.hidden_size), np.float32)
    text = f"hi {model.placeholder}" if own else "hi"
    rendered = await asyncio.wait_for(model.render(embeds_call(values, grid, text)), 60)
    (place,) = rendered["mm_placeholders"]["image"]
    assert place.length >= 4
    (item,) = rendered["mm_kwargs"]["image"]
    assert np.array_equal(item["image_embeds"].data.reshape(4, -1).numpy(), values)
    model.media.close()


# What the engine says for the rules of clients


@FAMILIES
def test_pixels_of_the_processor(models: dict[str, Model], family: str) -> None:
    """Other families count tiles, or edges in pixels, by the same names."""
    expected = ProcessorBounds(784, 3136) if family == "qwen3_vl" else ProcessorBounds()
    assert ProcessorBounds(*media.processor_bounds(models[family].llm)) == expected


@pytest.mark.parametrize("size", [(20, 20), (112, 112), (200, 100), (600, 30)], ids=str)
async def test_fewer_pixels_make_fewer_tokens(models: dict[str, Model], size: tuple[int, int]) -> None:
    model, file = models["qwen3_vl"], encode(Image.new("RGB", size, RED))
    rules = ClientRules(processor=ProcessorBounds(*media.processor_bounds(model.llm)))
    tensors = {"text_input": np.array([b"hi"], np.object_), "image": np.array([file], np.object_)}

    async def tokens(kwargs: dict[str, int]) -> int:
        parameters = json.dumps({"mm_processor_kwargs": kwargs})
        rendered = await model.render(parse_request(tensors, parameters, (), rules=rules))
        return int(rendered["mm_placeholders"]["image"][0].length)

    lengths = [await tokens(kwargs) for kwargs in ({"max_pixels": 784}, {"max_pixels": 1568}, {"max_pixels": 3136}, {})]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] or size == (20, 20)


@FAMILIES
async def test_the_longest_prompt_is_vllms(models: dict[str, Model], family: str) -> None:
    engine = models[family].llm
    most = prompts.max_prompt_chars(engine)
    assert most is not None
    with pytest.raises(Exception, match=f"more than {most} characters"):
        await prompts.rendering(engine).text({"prompt": "x" * (most + 1)})


@pytest.mark.parametrize(
    ("parameters", "end"),
    [
        ({}, "[assistant]"),
        ({"add_generation_prompt": False}, "ab"),
        ({"continue_final_message": True}, "ab"),
        ({"chat_template_kwargs": {"chat_template": "{{ messages[0]['content'] }}!"}}, "ab!"),
    ],
)
async def test_how_a_template_ends(models: dict[str, Model], parameters: dict[str, Any], end: str) -> None:
    model = models["internvl"]
    messages = json.dumps([{"role": "user", "content": "ab"}])
    made = parse_request(
        {"messages": np.array([messages], np.object_)},
        json.dumps(parameters),
        (),
        rules=ClientRules(trust_chat_template=True),
    )
    rendered = await model.render(made)
    assert model.llm.get_tokenizer().decode(rendered["prompt_token_ids"]).endswith(end)
