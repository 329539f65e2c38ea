"""The network: Qwen2.5-VL's architecture at 6.6 million parameters, as one function of its weights and a pack.

Weights are a dictionary with the names of a Qwen2.5-VL checkpoint. The forward pass is written over packs, with
attention over sequences of different lengths, because the usual one visits every attention window by itself, which is
too slow to train through. `check.py` holds it against transformers.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.shapes_vl.packing import LONGEST
from tools.shapes_vl.tokenizer import VOCABULARY_SIZE

Weights = dict[str, Tensor]

VISION_DEPTH = 6
VISION_WIDTH = 192
VISION_HEADS = 6
VISION_MLP = 512
FULL_ATTENTION_BLOCKS = (2, 5)
VISION_THETA = 10_000.0
DEPTH = 4
WIDTH = 256
HEADS = 4
KV_HEADS = 2
HEAD_WIDTH = 64
MLP = 640
MROPE_SECTION = (8, 12, 12)
# The positions within an image differ by a few dozen at most. At the usual base of a million most of the channels for
# the horizontal axis hardly turn over such distances, and left could not be told from right.
ROPE_THETA = 100.0
NORM_EPS = 1e-6
WINDOW_PATCHES = 64


class Attention(Protocol):
    """Attention within the sequences that `offsets` (count + 1,) marks; q, k, v and result are (rows, heads, width)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, causal: bool) -> Tensor: ...


def flash_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, causal: bool) -> Tensor:
    """On a GPU, in half precision."""
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    result: Tensor = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=window)
    return result


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, causal: bool) -> Tensor:
    """Anywhere, in any precision: sequences of the same length are computed together."""
    lengths = offsets.diff()
    out = torch.empty_like(q)
    for length in lengths.unique().tolist():
        if length == 0:
            continue
        starts = offsets[:-1][lengths == length]
        rows = starts[:, None].long() + torch.arange(length, device=q.device)
        query, key, value = (x[rows].transpose(1, 2) for x in (q, k, v))
        result = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        out = out.index_put((rows,), result.transpose(1, 2))
    return out


def initial_weights(seed: int) -> Weights:
    """Random weights in float32: variance 1 / inputs, residual outputs smaller by the square root of their number."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, residual_layers: int = 0) -> Tensor:
        scale = 1 / math.sqrt(columns * max(1, 2 * residual_layers))
        return torch.randn(rows, columns, generator=generator) * scale

    weights = {"visual.patch_embed.proj.weight": matrix(VISION_WIDTH, 3 * 2 * 14 * 14).view(VISION_WIDTH, 3, 2, 14, 14)}
    for i in range(VISION_DEPTH):
        block = f"visual.blocks.{i}"
        weights |= {
            f"{block}.norm1.weight": torch.ones(VISION_WIDTH),
            f"{block}.norm2.weight": torch.ones(VISION_WIDTH),
            f"{block}.attn.qkv.weight": matrix(3 * VISION_WIDTH, VISION_WIDTH),
            f"{block}.attn.proj.weight": matrix(VISION_WIDTH, VISION_WIDTH, VISION_DEPTH),
            f"{block}.mlp.gate_proj.weight": matrix(VISION_MLP, VISION_WIDTH),
            f"{block}.mlp.up_proj.weight": matrix(VISION_MLP, VISION_WIDTH),
            f"{block}.mlp.down_proj.weight": matrix(VISION_WIDTH, VISION_MLP, VISION_DEPTH),
        }
        names = ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        weights |= {f"{block}.{name}.bias": torch.zeros(len(weights[f"{block}.{name}.weight"])) for name in names}
    merged = 4 * VISION_WIDTH
    weights |= {
        "visual.merger.ln_q.weight": torch.ones(VISION_WIDTH),
        "visual.merger.mlp.0.weight": matrix(merged, merged),
        "visual.merger.mlp.0.bias": torch.zeros(merged),
        "visual.merger.mlp.2.weight": matrix(WIDTH, merged),
        "visual.merger.mlp.2.bias": torch.zeros(WIDTH),
        "model.embed_tokens.weight": torch.randn(VOCABULARY_SIZE, WIDTH, generator=generator) * 0.04,
        "model.norm.weight": torch.ones(WIDTH),
    }
    for i in range(DEPTH):
        layer = f"model.layers.{i}"
        widths = {"q_proj": HEADS * HEAD_WIDTH, "k_proj": KV_HEADS * HEAD_WIDTH, "v_proj": KV_HEADS * HEAD_WIDTH}
        for name, width in widths.items():
            weights[f"{layer}.self_attn.{name}.weight"] = matrix(width, WIDTH)
            weights[f"{layer}.self_attn.{name}.bias"] = torch.zeros(width)
        weights |= {
            f"{layer}.self_attn.o_proj.weight": matrix(WIDTH, HEADS * HEAD_WIDTH, DEPTH),
            f"{layer}.mlp.gate_proj.weight": matrix(MLP, WIDTH),
            f"{layer}.mlp.up_proj.weight": matrix(MLP, WIDTH),
            f"{layer}.mlp.down_proj.weight": matrix(WIDTH, MLP, DEPTH),
            f"{layer}.input_layernorm.weight": torch.ones(WIDTH),
            f"{layer}.post_attention_layernorm.weight": torch.ones(WIDTH),
        }
    return weights


def answer_logits(weights: Weights, pack: Weights, attention: Attention) -> Tensor:
    """Logits (answers, vocabulary) at the places of a pack where an answer's next token is to be said.

    `pack` holds, as tensors: `rows` (uint8, pixels of 14 by 14 patches), `row_pairs` (2, patches: the rows of the
    first and second frame of each patch), `patch_positions` (patches, 2), `windows` and `frames` (offsets of attention
    over patches), `slots` (units: the token that each unit of 2 by 2 patches stands at), `ids` (tokens, -1 for those),
    `positions` (3, tokens), `sequences` (offsets over tokens) and `answer_at` (answers).
    """
    seen = _see(weights, pack, attention)
    ids = pack["ids"]
    embedding = weights["model.embed_tokens.weight"]
    # A product with one-hot rows: looking rows up makes the backward pass add thousands of gradients to the same few
    # rows, one after the other.
    tokens = torch.arange(len(embedding), device=ids.device)
    text = (ids[:, None] == tokens).to(embedding.dtype) @ embedding
    # One row more than there are tokens takes what belongs to no image.
    x = F.pad(text, (0, 0, 0, 1)).index_copy(0, pack["slots"].long(), seen)[:-1]
    cos, sin = _text_rotation(pack["positions"])
    for i in range(DEPTH):
        layer = f"model.layers.{i}"
        x = x + _text_attention(
            weights,
            f"{layer}.self_attn",
            _norm(x, weights[f"{layer}.input_layernorm.weight"]),
            cos,
            sin,
            pack["sequences"],
            attention,
        )
        x = x + _mlp(weights, f"{layer}.mlp", _norm(x, weights[f"{layer}.post_attention_layernorm.weight"]))
    x = _norm(x[pack["answer_at"].long()], weights["model.norm.weight"])
    return x @ embedding.T


def _see(weights: Weights, pack: Weights, attention: Attention) -> Tensor:
    """The vision tower: one vector (units, width) for each unit, in window order."""
    dtype = weights["visual.patch_embed.proj.weight"].dtype
    pixels = pack["rows"][pack["row_pairs"].long()].transpose(0, 1).flatten(1)
    # Rows are (frame, height, width, channel); the checkpoint's kernel is (channel, frame, height, width).
    kernel = weights["visual.patch_embed.proj.weight"].permute(0, 2, 3, 4, 1).flatten(1)
    x = F.linear((pixels.float() / 127.5 - 1).to(dtype), kernel)
    cos, sin = _patch_rotation(pack["patch_positions"])
    for i in range(VISION_DEPTH):
        block = f"visual.blocks.{i}"
        full = i in FULL_ATTENTION_BLOCKS
        y = _linear(weights, f"{block}.attn.qkv", _norm(x, weights[f"{block}.norm1.weight"]))
        q, k, v = y.view(len(x), 3, VISION_HEADS, -1).unbind(1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        offsets = pack["frames" if full else "windows"]
        y = attention(q, k, v.contiguous(), offsets, LONGEST if full else WINDOW_PATCHES, causal=False)
        x = x + _linear(weights, f"{block}.attn.proj", y.flatten(1))
        x = x + _mlp(weights, f"{block}.mlp", _norm(x, weights[f"{block}.norm2.weight"]))
    x = _norm(x, weights["visual.merger.ln_q.weight"]).view(-1, 4 * VISION_WIDTH)
    return _linear(weights, "visual.merger.mlp.2", F.gelu(_linear(weights, "visual.merger.mlp.0", x)))


def _text_attention(
    weights: Weights, name: str, x: Tensor, cos: Tensor, sin: Tensor, offsets: Tensor, attention: Attention
) -> Tensor:
    q, k, v = (_linear(weights, f"{name}.{part}_proj", x).view(len(x), -1, HEAD_WIDTH) for part in "qkv")
    k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (_rotate(k, cos, sin), v))
    y = attention(_rotate(q, cos, sin), k, v, offsets, LONGEST, causal=True)
    return _linear(weights, f"{name}.o_proj", y.flatten(1))


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    gate = F.silu(_linear(weights, f"{name}.gate_proj", x))
    return _linear(weights, f"{name}.down_proj", gate * _linear(weights, f"{name}.up_proj", x))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPS)).to(x.dtype) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + half) of (rows, heads, width) by the angle of its row."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _patch_rotation(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (patches, 1, half a head): one half of the channels turns with the row, the other the column."""
    quarter = VISION_WIDTH // VISION_HEADS // 4
    rates = VISION_THETA ** -(torch.arange(quarter, device=positions.device) / quarter)
    angles = (positions[:, :, None] * rates).flatten(1)[:, None]
    return angles.cos(), angles.sin()


def _text_rotation(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (tokens, 1, half a head): the channels are dealt out to time, height and width in this order."""
    half = HEAD_WIDTH // 2
    rates = ROPE_THETA ** -(torch.arange(half, device=positions.device) / half)
    parts = [positions[axis, :, None] * part for axis, part in enumerate(rates.split(MROPE_SECTION))]
    angles = torch.cat(parts, dim=-1)[:, None]
    return angles.cos(), angles.sin()
