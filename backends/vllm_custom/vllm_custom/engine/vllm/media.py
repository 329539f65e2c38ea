"""Which media a model takes, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy.typing as npt

from vllm_custom.contract.names import IMAGE_EMBEDS, IMAGE_GRID_THW
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.engine.vllm.older import lacks
from vllm_custom.engine.vllm.prompts import rendering
from vllm_custom.errors import (
    UnsupportedError,
    listing,
)


def media_limits(engine: Any) -> dict[str, int]:
    """How many items of each modality one prompt may hold: the model's own limits and limit_mm_per_prompt."""
    if not engine.model_config.is_multimodal_model:
        return {}
    return dict(_allowed_limits(rendering(engine).media_processor()))


def _allowed_limits(processor: Any) -> Mapping[str, int]:
    found = getattr(processor.info, "allowed_mm_limits", None)  # up to vLLM 0.13 the processor itself has it
    return cast(Mapping[str, int], processor.allowed_mm_limits if found is None else found)


def embeds_layout(engine: Any) -> EmbedsLayout | None:
    """What this model takes as embeddings of images; None where enable_mm_embeds is off.

    Raises:
        UnsupportedError: the model needs more than embeddings and a grid, or this vLLM cannot be told to take any.
    """
    model_config = engine.model_config
    if not model_config.is_multimodal_model:
        return None
    if not hasattr(model_config.multimodal_config, "enable_mm_embeds"):
        raise lacks(IMAGE_EMBEDS, "0.11.1")
    if not model_config.multimodal_config.enable_mm_embeds:
        return None
    fields = _embedding_fields(engine) - {IMAGE_EMBEDS}
    if fields - {IMAGE_GRID_THW}:
        raise UnsupportedError(f"{IMAGE_EMBEDS}: this model also requires {listing(fields)}, which is not supported")
    vision = getattr(model_config.hf_config, "vision_config", None)
    # Qwen3-VL: features of several depths side by side.
    depths = 1 + len(getattr(vision, "deepstack_visual_indexes", None) or ())
    merge = int(vision.spatial_merge_size) if fields and vision is not None else None
    return EmbedsLayout(_embeds_size(model_config) * depths, merge)


def _embedding_fields(engine: Any) -> set[str]:
    """What belongs to an embedded image; older versions of vLLM cannot be asked, and some families want a grid."""
    known = getattr(_data_parser(engine), "embedding_fields", None)
    if known is not None:
        return set(known.get("image", {}))
    vision = getattr(engine.model_config.hf_config, "vision_config", None)
    return {IMAGE_GRID_THW} if hasattr(vision, "spatial_merge_size") else set()


def _embeds_size(config: Any) -> int:
    size = getattr(config, "get_inputs_embeds_size", config.get_hidden_size)  # the first one came with vLLM 0.13
    return int(size())


def join_embeds(images: Sequence[Mapping[str, Any]]) -> Any:
    """Embedded images (fields by name, as tensors) in the form of vLLM's multi_modal_data."""
    import torch

    if all(set(image) == {IMAGE_EMBEDS} for image in images):
        return [image[IMAGE_EMBEDS] for image in images]
    return {
        IMAGE_EMBEDS: torch.cat([image[IMAGE_EMBEDS] for image in images]),
        IMAGE_GRID_THW: torch.stack([image[IMAGE_GRID_THW] for image in images]),
    }


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """A torch tensor on the array's memory."""
    import torch

    return torch.from_numpy(array)


def _data_parser(engine: Any) -> Any:
    processor = rendering(engine).media_processor()
    return getattr(processor.info, "data_parser", None) or processor.data_parser


def audio_rate(engine: Any) -> int | None:
    """Samples per second that the model's processor wants; None where it takes none or any."""
    if not engine.model_config.is_multimodal_model:
        return None
    resampler = getattr(_data_parser(engine), "audio_resampler", None)
    rate = getattr(resampler, "target_sr", None)
    return None if rate is None else round(rate)


def frame_sampling(engine: Any) -> dict[str, Any]:
    """``num_frames`` and ``fps`` of media_io_kwargs in model.json, which requests may override."""
    video = _media_io_kwargs(engine, "video")
    return {name: video[name] for name in ("num_frames", "fps") if video.get(name, 0) > 0}  # -1 is no limit


def image_options(engine: Any) -> dict[str, Any]:
    """``image`` of media_io_kwargs in model.json."""
    return _media_io_kwargs(engine, "image")


def _media_io_kwargs(engine: Any, modality: str) -> dict[str, Any]:
    config = getattr(engine.model_config, "multimodal_config", None)
    return dict((getattr(config, "media_io_kwargs", None) or {}).get(modality) or {})


def processor_bounds(engine: Any) -> tuple[int | None, int | None]:
    """The fewest and the most pixels of an image by the model's processor; None where it counts in another way."""
    if not engine.model_config.is_multimodal_model:
        return None, None
    processor = getattr(rendering(engine).media_processor().info.get_hf_processor(), "image_processor", None)
    if "max_pixels" not in getattr(getattr(processor, "valid_kwargs", None), "__annotations__", {}):
        return None, None
    size = getattr(processor, "size", None) or {}
    return (
        _pixels(processor, size, "min_pixels", "shortest_edge"),
        _pixels(processor, size, "max_pixels", "longest_edge"),
    )


def _pixels(processor: Any, size: Any, name: str, edge: str) -> int | None:
    """A bound by its own name, or as an "edge" of the size, which holds pixels all the same."""
    value = getattr(processor, name, None) or getattr(size, edge, None)
    if value is None and isinstance(size, Mapping):
        value = size.get(edge)
    return int(value) if value else None
