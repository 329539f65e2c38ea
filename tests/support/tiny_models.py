"""Vision-language models of several families without weights: configuration, tokenizer and processor, made here.

All that vLLM reads to turn a prompt and images into the engine's input; nothing comes from the network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEXT = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,  # LLaVA leaves the last one out
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LONG = 131_072  # tokens of a context for the largest images
_SQUARE = {"height": 28, "width": 28}
_BEFORE = "{% for message in messages %}[{{ message['role'] }}]"
_AFTER = "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def by_parts(image: str, video: str = "") -> str:
    """A template that puts placeholders where the parts are."""
    return (
        f"{_BEFORE}{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
        f"{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{_AFTER}"
    )


def as_text() -> str:
    """A template that knows text only: vLLM puts the placeholders into the text before it."""
    return f"{_BEFORE}{{{{ message['content'] }}}}{_AFTER}"


def tokenizer(template: str, *tokens: str, **named: str) -> Any:
    """A tokenizer of single bytes with special tokens; ``named`` ones are attributes of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    extra = {f"extra_{number}_token": token for number, token in enumerate(tokens)}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named | extra,
    )
    fast.chat_template = template
    return fast


def _save(folder: Path, config: Any, architecture: str, processor: Any) -> None:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def llava(folder: Path) -> None:
    import transformers as t

    tokens = tokenizer(by_parts("<image>\n"), "<image>")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**_VISION),
        text_config=t.LlamaConfig(**_TEXT),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    images = t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=_SQUARE)
    processor = t.LlavaProcessor(
        images, tokens, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    _save(folder, config, "LlavaForConditionalGeneration", processor)


def llava_onevision(folder: Path) -> None:
    import transformers as t

    tokens = tokenizer(by_parts("<image>", "<video>"), "<image>", "<video>")
    points = [[28, 28], [56, 28]]
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**_VISION),
        text_config=t.Qwen2Config(**_TEXT),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points,
    )
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size=_SQUARE, image_grid_pinpoints=points, do_pad=True),
        tokens,
        t.LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
    )
    _save(folder, config, "LlavaOnevisionForConditionalGeneration", processor)


def idefics3(folder: Path) -> None:
    import transformers as t

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    names = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    tokens = tokenizer(by_parts("<image>"), *names, *tiles)
    config = t.Idefics3Config(
        vision_config=_VISION,
        text_config=t.LlamaConfig(**_TEXT, pad_token_id=0).to_dict(),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = t.Idefics3ImageProcessor(size={"longest_edge": 28}, max_image_size={"longest_edge": 28})
    _save(folder, config, "Idefics3ForConditionalGeneration", t.Idefics3Processor(images, tokens, image_seq_len=1))


def gemma3(folder: Path) -> None:
    import transformers as t

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokens = tokenizer(by_parts("<start_of_image>"), "\n", "\n\n", "\n\n\n", "\n\n\n\n", **named)
    config = t.Gemma3Config(
        text_config=t.Gemma3TextConfig(**_TEXT),
        vision_config=t.SiglipVisionConfig(**_VISION | {"image_size": 56}),
        mm_tokens_per_image=4,
        boi_token_index=tokens.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokens.convert_tokens_to_ids("<image_soft_token>"),
    )
    images = t.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    _save(folder, config, "Gemma3ForConditionalGeneration", t.Gemma3Processor(images, tokens, image_seq_length=4))


def mistral3(folder: Path) -> None:
    import transformers as t

    tokens = tokenizer(by_parts("[IMG]"), "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = t.Mistral3Config(
        vision_config=t.PixtralVisionConfig(**_VISION),
        text_config=t.MistralConfig(**_TEXT),
        image_token_index=tokens.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    images = t.PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14})
    processor = t.PixtralProcessor(images, tokens, patch_size=14, spatial_merge_size=2)
    _save(folder, config, "Mistral3ForConditionalGeneration", processor)


def internvl(folder: Path) -> None:
    import transformers as t

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokens = tokenizer(as_text(), **named)
    config = t.InternVLConfig(
        vision_config=_VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
        text_config=t.Qwen2Config(**_TEXT).to_dict(),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    processor = t.InternVLProcessor(
        t.GotOcr2ImageProcessor(size=_SQUARE), tokens, t.InternVLVideoProcessor(size=_SQUARE), image_seq_length=1
    )
    _save(folder, config, "InternVLForConditionalGeneration", processor)


def qwen3_vl(folder: Path, patch: int = 14, length: int = 2048, **size: int) -> None:
    """``size``: the bounds of the processors in pixels, by their names of edges."""
    import transformers as t

    pads = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    marks = ("<|vision_start|>", "<|vision_end|>")
    tokens = tokenizer(by_parts(*(f"{marks[0]}{pad}{marks[1]}" for pad in pads.values())), *pads.values(), *marks)
    config = t.Qwen3VLConfig(
        text_config=t.Qwen3VLTextConfig(
            **_TEXT | {"max_position_embeddings": length},
            rope_parameters={"rope_type": "default", "rope_theta": 10_000, "mrope_section": [4, 6, 6]},
        ),
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": patch,
            "spatial_merge_size": 2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=tokens.convert_tokens_to_ids(pads["image"]),
        video_token_id=tokens.convert_tokens_to_ids(pads["video"]),
        vision_start_token_id=tokens.convert_tokens_to_ids(marks[0]),
        vision_end_token_id=tokens.convert_tokens_to_ids(marks[1]),
    )
    edges = size or {"shortest_edge": 784, "longest_edge": 3136}
    images = t.Qwen2VLImageProcessor(size=edges, patch_size=patch, merge_size=2)
    videos = t.Qwen3VLVideoProcessor(patch_size=patch, merge_size=2)
    _save(folder, config, "Qwen3VLForConditionalGeneration", t.Qwen3VLProcessor(images, tokens, videos))


def _qwen2(folder: Path, architecture: str, config_type: Any, processor_type: Any, vision: dict[str, Any]) -> None:
    """With the processors' own bounds of pixels, and a context for the largest images."""
    import transformers as t

    pads = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    marks = ("<|vision_start|>", "<|vision_end|>")
    tokens = tokenizer(by_parts(*(f"{marks[0]}{pad}{marks[1]}" for pad in pads.values())), *pads.values(), *marks)
    rope = {"rope_type": "default", "rope_theta": 10_000, "mrope_section": [4, 6, 6]}
    config = config_type(
        text_config={**_TEXT, "max_position_embeddings": LONG, "rope_parameters": rope},
        vision_config={"depth": 1, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, **vision},
        image_token_id=tokens.convert_tokens_to_ids(pads["image"]),
        video_token_id=tokens.convert_tokens_to_ids(pads["video"]),
        vision_start_token_id=tokens.convert_tokens_to_ids(marks[0]),
        vision_end_token_id=tokens.convert_tokens_to_ids(marks[1]),
    )
    _save(folder, config, architecture, processor_type(t.Qwen2VLImageProcessor(), tokens, t.Qwen2VLVideoProcessor()))


def qwen2_vl(folder: Path) -> None:
    import transformers as t

    vision = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 1}
    _qwen2(folder, "Qwen2VLForConditionalGeneration", t.Qwen2VLConfig, t.Qwen2VLProcessor, vision)


def qwen2_5_vl(folder: Path) -> None:
    import transformers as t

    vision = {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 64, "fullatt_block_indexes": [0]}
    _qwen2(folder, "Qwen2_5_VLForConditionalGeneration", t.Qwen2_5_VLConfig, t.Qwen2_5_VLProcessor, vision)


def paligemma(folder: Path) -> None:
    """Takes one image, and no placeholder: its processor puts the image in front."""
    import transformers as t

    tokens = tokenizer("", "<image>", "\n")
    tokens.chat_template = None
    config = t.PaliGemmaConfig(
        text_config=t.GemmaConfig(**_TEXT),
        vision_config=t.SiglipVisionConfig(**_VISION),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        projection_dim=64,
    )
    images = t.SiglipImageProcessor(size=_SQUARE)
    images.image_seq_length = 4
    _save(folder, config, "PaliGemmaForConditionalGeneration", t.PaliGemmaProcessor(images, tokens))


# Family to its maker and the text that stands for an image in its prompts.
FAMILIES: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "llava": (llava, "<image>"),
    "llava_onevision": (llava_onevision, "<image>"),
    "idefics3": (idefics3, "<image>"),
    "gemma3": (gemma3, "<start_of_image>"),
    "mistral3": (mistral3, "[IMG]"),
    "internvl": (internvl, "<IMG_CONTEXT>"),
    "qwen3_vl": (qwen3_vl, "<|image_pad|>"),
    "paligemma": (paligemma, None),
}


def engine(folder: Path, **options: Any) -> Any:
    """vLLM's own configuration and renderer for the model in ``folder``, as an engine has them; no model is loaded."""
    from types import SimpleNamespace

    from vllm.config import ModelConfig, VllmConfig
    from vllm.renderers import renderer_from_config

    config = ModelConfig(model=str(folder), dtype="float32", **{"max_model_len": 2048, "seed": 0, **options})
    renderer = renderer_from_config(VllmConfig(model_config=config))
    return SimpleNamespace(model_config=config, renderer=renderer, get_tokenizer=renderer.get_tokenizer)


if __name__ == "__main__":
    FAMILIES[sys.argv[1]][0](Path(sys.argv[2]))
