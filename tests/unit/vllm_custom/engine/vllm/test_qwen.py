"""Messages in Qwen's form: the engine gets what transformers makes of them with qwen_vl_utils.process_vision_info."""

from __future__ import annotations

import base64
import functools
import importlib
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support import tiny_models
from tests.support.audio import film
from tests.support.images import encode
from vllm_custom.chat import PromptBuilder
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine, install_connector, media
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.openai.media import media_by_handle
from vllm_custom.request import parse_request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("vllm"),
    # The libraries' own, about what they read and write here.
    pytest.mark.filterwarnings("ignore"),
]

HANDLES = MediaHandles()
QUESTION = {"type": "text", "text": "What is it?"}
_QWEN3_EDGES = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
MAKERS = {
    "qwen2_vl": tiny_models.qwen2_vl,
    "qwen2_5_vl": tiny_models.qwen2_5_vl,
    "qwen3_vl": functools.partial(tiny_models.qwen3_vl, patch=16, length=tiny_models.LONG, **_QWEN3_EDGES),
}
FAMILIES = pytest.mark.parametrize("family", list(MAKERS))


class Model:
    """One family: our prompt builder on vLLM's renderer, and transformers' processor."""

    def __init__(self, family: str, folder: Path) -> None:
        from transformers import AutoProcessor

        MAKERS[family](folder)
        llm = tiny_models.engine(folder, max_model_len=tiny_models.LONG, mm_processor_cache_gb=0)
        self.engine = VllmEngine(llm, ModelFacts(media_limits=media.media_limits(llm), has_chat_template=True))
        self.rules = self.engine.vision_rules()
        self.patch_size = llm.model_config.hf_config.vision_config.patch_size
        self.sized_once = family == "qwen3_vl"
        self.processor = AutoProcessor.from_pretrained(folder)

    def media(self, **parameters: object) -> MediaLoader:
        values = {"VIDEO_MAX_FRAMES": 768, **parameters}
        given = {name: {"string_value": str(value)} for name, value in values.items()}
        settings = Settings.from_model_config({"name": "model", "parameters": given})
        return MediaLoader(settings, {"image": 60, "video": 30}, vision=self.rules)

    async def ours(self, tensors: dict[str, Any], loader: MediaLoader, parameters: str = "{}") -> Any:
        prompts = PromptBuilder(self.engine, loader, HANDLES, None)
        call = parse_request({name: np.array(values, np.object_) for name, values in tensors.items()}, parameters, ())
        return (await prompts.render(call, prompts.plan(call))).engine_input

    async def of_messages(self, messages: list[dict[str, Any]], **parameters: object) -> Any:
        loader = self.media(**parameters)
        try:
            return await self.ours({"messages": [json.dumps(messages)]}, loader)
        finally:
            loader.close()

    def transformers(self, messages: list[dict[str, Any]]) -> Any:
        """As Qwen's documentation has it."""
        from qwen_vl_utils import process_vision_info

        text = self.processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images, videos, kwargs = process_vision_info(
            messages, return_video_kwargs=True, return_video_metadata=True, image_patch_size=self.patch_size
        )
        if videos is not None:
            videos, metadata = zip(*videos, strict=True)
            kwargs["video_metadata"] = list(metadata)
            videos = list(videos)
        if self.sized_once:
            kwargs["do_resize"] = False
        return self.processor(text=[text], images=images, videos=videos, return_tensors="pt", **kwargs)


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
        package = importlib.import_module("qwen_vl_utils.vision_process")
        patch.setitem(package.VIDEO_READER_BACKENDS, "pyav", _read)
        patch.setattr(package, "get_video_reader_backend", lambda: "pyav")
        made = {family: Model(family, tmp_path_factory.mktemp(family)) for family in MAKERS}
    yield made
    patch.undo()


def _read(part: dict[str, Any]) -> Any:
    """A reader for the package, whose own ones need libraries that are not here; what it chooses is its own."""
    import torch
    from qwen_vl_utils import vision_process as package

    data = base64.b64decode(part["video"].partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        rate = float(container.streams.video[0].average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    first, last, among = package.calculate_video_frame_range(part, len(frames), rate)
    count = package.smart_nframes(part, total_frames=among, video_fps=rate)
    indices = torch.linspace(first, last, count).round().long().tolist()
    video = torch.from_numpy(np.stack([frames[index] for index in indices])).permute(0, 3, 1, 2)
    metadata = {"fps": rate, "frames_indices": indices, "total_num_frames": among, "video_backend": "pyav"}
    return video, metadata, count / among * rate


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def drawing(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise, so that a wrong filter or order of sides shows."""
    noise = np.random.default_rng([width, height, seed]).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


# Width, height and what the client asks for.
_SIZES = [
    *[(1, 1), (2, 1), (1, 3), (13, 17), (27, 29), (28, 28), (31, 15), (1, 150), (199, 1), (3, 597), (1600, 9)],
    *[(57, 41), (55, 57), (84, 85), (111, 113), (225, 223), (333, 222), (640, 480), (481, 639), (1000, 37)],
    *[(29, 1100), (777, 501), (1023, 769), (1281, 719), (600, 400), (2000, 300)],
]
IMAGES: list[tuple[int, int, dict[str, int]]] = [
    *((*size, {}) for size in _SIZES),
    *((width, height, {"max_pixels": 50_176}) for width, height in _SIZES[-10:]),
    *((width, height, {"min_pixels": 50_176, "max_pixels": 100_352}) for width, height in _SIZES[9:17]),
    (300, 200, {"resized_height": 280, "resized_width": 420}),
    (300, 200, {"resized_height": 3, "resized_width": 500}),
    (40, 900, {"resized_height": 50, "resized_width": 50}),
    (640, 480, {"min_pixels": 1, "max_pixels": 3000}),
    (33, 44, {"min_pixels": 200_704}),
    (512, 512, {"min_pixels": 65_536, "max_pixels": 65_536}),
]


def test_there_are_images_enough() -> None:
    assert len(IMAGES) == 50


@functools.cache
def images_in_parts() -> list[dict[str, Any]]:
    parts = []
    for number, (width, height, options) in enumerate(IMAGES):
        file = encode(drawing(width, height), "PNG" if number % 2 else "WEBP", lossless=True)
        parts.append({"type": "image", "image": uri(file), **options})
    return parts


@FAMILIES
async def test_images_become_the_same_tokens_and_pixels(models: dict[str, Model], family: str) -> None:
    model = models[family]
    messages = [{"role": "user", "content": [*images_in_parts(), QUESTION]}]
    expected = model.transformers(messages)
    made = await model.of_messages(messages)
    assert made["prompt_token_ids"] == expected["input_ids"][0].tolist()
    items = made["mm_kwargs"]["image"]
    assert [item["image_grid_thw"].data.tolist() for item in items] == expected["image_grid_thw"].tolist()
    pixels = np.concatenate([item["pixel_values"].data.numpy() for item in items])
    assert np.array_equal(pixels, in_bytes(expected["pixel_values"], model.processor.image_processor))


def in_bytes(pixels: Any, processor: Any) -> Any:
    """Pixels from 0 to 255, as vLLM has them: the model's first layer normalizes them."""
    channels = pixels.numpy().reshape(len(pixels), 3, -1)
    mean, std = (np.array(values)[:, None] for values in (processor.image_mean, processor.image_std))
    return np.round((channels * std + mean) * 255).reshape(len(pixels), -1)


@dataclass(frozen=True)
class Video:
    """How a video is made, and what a client asks for with it."""

    frames: int
    size: tuple[int, int]
    options: dict[str, float]
    rate: int = 10
    as_list: bool = False

    def part(self) -> dict[str, Any]:
        frames = [np.asarray(drawing(*self.size, seed)) for seed in range(self.frames)]
        if self.as_list:
            listed = [uri(encode(Image.fromarray(frame))) for frame in frames]
            return {"type": "video", "video": listed, **self.options}
        odd = any(side % 2 for side in self.size)
        file = film(frames, "webm" if odd else "mp4", "libvpx" if odd else "libx264", rate=self.rate)
        return {"type": "video", "video": uri(file, "video/mp4"), **self.options}


VIDEOS = [
    Video(10, (64, 48), {}),
    Video(33, (65, 49), {}, rate=30),
    Video(2, (320, 240), {}),
    Video(5, (127, 255), {"fps": 10}),
    Video(61, (96, 64), {"fps": 7.5}, rate=24),
    Video(40, (96, 64), {"nframes": 7}),
    Video(40, (64, 96), {"nframes": 40}),
    Video(50, (64, 64), {"fps": 0.1}),
    Video(50, (64, 64), {"fps": 1, "min_frames": 9}),
    Video(90, (64, 64), {"fps": 30, "max_frames": 15}, rate=30),
    Video(50, (64, 64), {"fps": 5, "video_start": 1.05}),
    Video(50, (64, 64), {"fps": 4, "video_end": 3.33}),
    Video(77, (64, 64), {"nframes": 6, "video_start": 0.5, "video_end": 2}, rate=25),
    Video(6, (640, 360), {"max_pixels": 60_000, "min_pixels": 20_000}),
    Video(6, (320, 200), {"resized_height": 150, "resized_width": 90}),
    Video(8, (640, 360), {"total_pixels": 900_000, "min_pixels": 3136}),
    Video(4, (200, 120), {}, as_list=True),
    Video(5, (201, 121), {"sample_fps": 3, "raw_fps": 24}, as_list=True),
    Video(3, (400, 300), {"max_pixels": 50_000, "min_pixels": 10_000, "fps": 1}, as_list=True),
    Video(1, (99, 177), {"resized_height": 280, "resized_width": 140}, as_list=True),
]


@functools.cache
def videos_in_parts() -> list[dict[str, Any]]:
    return [clip.part() for clip in VIDEOS]


def test_there_are_videos_enough() -> None:
    assert len(VIDEOS) == 20


@FAMILIES
async def test_videos_become_the_same_tokens_and_nearly_the_same_pixels(models: dict[str, Model], family: str) -> None:
    model = models[family]
    messages = [{"role": "user", "content": [*videos_in_parts(), QUESTION]}]
    expected = model.transformers(messages)
    made = await model.of_messages(messages)
    assert made["prompt_token_ids"] == expected["input_ids"][0].tolist()
    items = made["mm_kwargs"]["video"]
    assert [item["video_grid_thw"].data.tolist() for item in items] == expected["video_grid_thw"].tolist()
    if family == "qwen2_5_vl":
        seconds = [float(item["second_per_grid_ts"].data) for item in items]
        assert seconds == pytest.approx(expected["second_per_grid_ts"])
    pixels = np.concatenate([item["pixel_values_videos"].data.numpy() for item in items])
    # The package resizes frames with torch, and this backend with Pillow.
    differences = np.abs(pixels - in_bytes(expected["pixel_values_videos"], model.processor.video_processor))
    assert differences.max() <= 4
    assert differences.mean() < 0.2


async def test_one_part_in_this_form_makes_it_the_rule_of_its_request(models: dict[str, Model]) -> None:
    model, file = models["qwen2_5_vl"], uri(encode(drawing(300, 200)))
    film = {"type": "video_url", "video_url": {"url": Video(41, (64, 64), {}).part()["video"]}}

    async def frames(*parts: dict[str, Any]) -> int:
        made = await model.of_messages([{"role": "user", "content": [film, *parts]}])
        return int(made["mm_kwargs"]["video"][0]["video_grid_thw"].data[0]) * 2

    assert await frames({"type": "image_url", "image_url": {"url": file}}) == 42
    assert await frames({"type": "image", "image": file}) == 8
    assert await frames({"type": "image_url", "image_url": {"url": file}, "max_pixels": 50_176}) == 8


@pytest.mark.parametrize("always", [True, False])
async def test_qwen_vl_utils_of_config_pbtxt_is_the_rule_for_plain_inputs(
    models: dict[str, Model], always: bool
) -> None:
    model = models["qwen2_5_vl"]
    loader = model.media(QWEN_VL_UTILS="true" if always else "false")
    clip = base64.b64decode(Video(41, (64, 64), {}, rate=10).part()["video"].partition(",")[2])

    async def frames(parameters: dict[str, Any]) -> int:
        made = await model.ours({"text_input": [b"hi"], "video": [clip]}, loader, json.dumps(parameters))
        return int(made["mm_kwargs"]["video"][0]["video_grid_thw"].data[0]) * 2

    asked: list[dict[str, Any]] = [{}, {"fps": 1}, {"num_frames": 10}, {"num_frames": 400}, {"fps": 5, "num_frames": 9}]
    assert [await frames(one) for one in asked] == ([8, 4, 10, 40, 8] if always else [42, 4, 10, 42, 10])
    loader.close()


async def test_a_body_of_the_openai_api_may_have_this_form(models: dict[str, Model]) -> None:
    model = models["qwen3_vl"]
    loader = model.media()
    file = uri(encode(drawing(300, 200)))
    listed = Video(4, (200, 120), {}, as_list=True).part()
    body: dict[str, Any] = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": file, "max_pixels": 65_536},
                    {"type": "image_url", "image_url": {"url": file}, "resized_height": 64, "resized_width": 96},
                    listed,
                    QUESTION,
                ],
            }
        ]
    }
    with media_by_handle(body, loader, HANDLES):
        assert body["mm_processor_kwargs"] == {"do_resize": False}
        first, second, clip, _ = body["messages"][0]["content"]
        assert [part["type"] for part in (first, second, clip)] == ["image_url", "image_url", "video_url"]
        assert all(set(part) == {"type", part["type"]} for part in (first, second, clip))
        assert (await HANDLES.resolve_async(first["image_url"]["url"])).size == (288, 192)
        assert (await HANDLES.resolve_async(second["image_url"]["url"])).size == (96, 64)
        frames, metadata = await HANDLES.resolve_async(clip["video_url"]["url"])
        assert (frames.shape, metadata["fps"], metadata["frames_indices"]) == ((4, 320, 448, 3), 2.0, [0, 1, 2, 3])
    loader.close()


def picture(**options: object) -> list[dict[str, Any]]:
    return [{"type": "image", "image": uri(encode(drawing(300, 200))), **options}]


def clip(**options: object) -> list[dict[str, Any]]:
    return [{**Video(10, (64, 64), {}).part(), **options}]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (picture(max_pixels=10**8), "messages[0].content[0].max_pixels: expected at most 1000000 (IMAGE_MAX_PIXELS"),
        (picture(min_pixels=10**8), "messages[0].content[0].min_pixels: expected at most 1000000 (IMAGE_MAX_PIXELS"),
        (
            picture(resized_height=2000, resized_width=2000),
            ".resized_height: expected at most 1000000 pixels",
        ),
        (picture(max_pixels=1000), "content[0].max_pixels: expected at least min_pixels, which is 3136, got 1000"),
        (clip(max_pixels=50_000), "content[0].max_pixels: expected at least min_pixels, which is 100352, got 50000"),
        (clip(nframes=64), "content[0].nframes: expected at most 32 (VIDEO_MAX_FRAMES of this model), got 64"),
        (clip(max_frames=768), "content[0].max_frames: expected at most 32 (VIDEO_MAX_FRAMES of this model), got 768"),
        (clip(nframes=20), "content[0]: expected from 2 to 10 frames, as many as there are, got nframes 20"),
        (clip(video_start=5), "expected video_start and video_end with at least two frames of the video between them"),
        (clip(video=[uri(encode(drawing(9, 9)))] * 33), "expected at most 32 frames (VIDEO_MAX_FRAMES of this model)"),
        (clip(video=[uri(encode(drawing(9, side))) for side in (9, 8)]), "video[1]: expected the size of the first"),
        (clip(video=[uri(encode(drawing(9, 9))), uri(b"no image")]), "content[0].video[1]: expected one of"),
        (picture(image=uri(encode(drawing(1, 300)))), "content[0]: expected sides of which one is at most 200 times"),
    ],
)
async def test_what_the_rules_or_the_limits_do_not_allow(
    models: dict[str, Model], parts: list[dict[str, Any]], words: str
) -> None:
    message = [{"role": "user", "content": parts}]
    with pytest.raises(InvalidRequestError) as caught:
        await models["qwen2_5_vl"].of_messages(message, IMAGE_MAX_PIXELS=1_000_000, VIDEO_MAX_FRAMES=32)
    assert words in str(caught.value)


async def test_a_limit_below_the_packages_own_holds_for_what_nobody_asks_for(models: dict[str, Model]) -> None:
    made = await models["qwen2_5_vl"].of_messages(
        [{"role": "user", "content": [*clip(), {"type": "image", "image": uri(encode(drawing(99, 101)))}]}],
        IMAGE_MAX_PIXELS=10_000,
        VIDEO_MAX_FRAMES=4,
    )
    assert made["mm_kwargs"]["image"][0]["image_grid_thw"].data.tolist() == [1, 6, 6]
    assert made["mm_kwargs"]["video"][0]["video_grid_thw"].data[0] == 2


async def test_frames_in_one_uri_are_a_list_of_frames(models: dict[str, Model]) -> None:
    listed = Video(5, (200, 120), {}, as_list=True).part()
    joined = ",".join(frame.partition(",")[2] for frame in listed["video"])
    made = [
        await models["qwen3_vl"].of_messages([{"role": "user", "content": [{"type": "video", "video": video}]}])
        for video in (listed["video"], f"data:video/jpeg;base64,{joined}")
    ]
    assert made[0]["prompt_token_ids"] == made[1]["prompt_token_ids"]
    pixels = [one["mm_kwargs"]["video"][0]["pixel_values_videos"].data.numpy() for one in made]
    assert np.array_equal(*pixels)
