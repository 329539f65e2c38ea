"""Many conversations in one batch of fixed size, laid end to end without padding between them.

A pack is a dictionary of arrays whose shapes never change, so that the model is compiled once. What is left over at
the end is cut into short sequences of its own, since attention kernels leave rows that belong to no sequence unset.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tools.shapes_vl import vision
from tools.shapes_vl.chat import Encoder, Example, Visual, segments

Pack = dict[str, npt.NDArray[np.generic]]
TOKENS_PER_SECOND = 2
TEMPORAL_PATCH = 2
PAD_CHUNK = 64
LONGEST = vision.MAX_PIXELS // vision.PATCH_PX**2
"""Patches of the largest image, and the most tokens of a conversation: 5120."""


@dataclass(frozen=True)
class Limits:
    """The size of a pack: `patches` of 14 by 14 pixels (two frames deep) and `tokens` of text, a multiple of 64."""

    patches: int = 49_152
    tokens: int = 22_528

    @property
    def rows(self) -> int:
        """Rows of pixels; a patch of a video needs two, one of an image needs one."""
        return self.patches + self.patches // 8

    @property
    def windows(self) -> int:
        return self.patches // 20

    @property
    def frames(self) -> int:
        return self.patches // 40

    @property
    def sequences(self) -> int:
        return self.tokens // 14

    @property
    def answers(self) -> int:
        return self.tokens // 3


SMALL = Limits(patches=6_144, tokens=4_096)
"""For a CPU."""


@dataclass
class _Parts:
    """What one conversation adds to a pack, with indices counted from its own beginning."""

    rows: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    row_count: int = 0
    row_pairs: list[npt.NDArray[np.int32]] = field(default_factory=list)
    patch_positions: list[npt.NDArray[np.int32]] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    slots: list[npt.NDArray[np.int32]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    positions: list[npt.NDArray[np.int32]] = field(default_factory=list)
    answer_at: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


def conversation(example: Example, encoder: Encoder) -> _Parts:
    """Tokens, positions and pixels of one conversation."""
    parts = _Parts()
    visuals = iter(example.visuals)
    position = 0
    for text, learnt in segments(example):
        for token in encoder.encode(text):
            if token in (encoder.image_pad, encoder.video_pad):
                position = _add_visual(parts, next(visuals), position)
                continue
            if learnt:
                parts.answer_at.append(len(parts.ids) - 1)
                parts.targets.append(token)
            parts.ids.append(token)
            parts.positions.append(np.full((3, 1), position, np.int32))
            position += 1
    return parts


def _add_visual(parts: _Parts, visual: Visual, start: int) -> int:
    """Add the pixels and placeholders of an image or video at position `start`; returns the position after it."""
    frames = visual.frames
    still = visual.seconds_per_step is None
    if not still and len(frames) % TEMPORAL_PATCH:
        frames = (*frames, frames[-1])
    steps = 1 if still else len(frames) // TEMPORAL_PATCH
    high, wide = frames[0].shape[0] // vision.UNIT_PX, frames[0].shape[1] // vision.UNIT_PX
    grid = vision.layout(high, wide)
    units = high * wide
    for step in range(steps):
        shown = frames[step * TEMPORAL_PATCH : (step + 1) * TEMPORAL_PATCH]
        rows = [vision.patches(frame) for frame in shown]
        first = np.arange(len(rows[0]), dtype=np.int32) + parts.row_count
        parts.rows += rows
        parts.row_count += sum(map(len, rows))
        parts.row_pairs.append(np.stack([first, first + (len(rows[0]) if len(rows) > 1 else 0)]))
        parts.patch_positions.append(grid.positions)
        parts.windows += grid.windows
        parts.frames.append(units * vision.MERGE**2)
        parts.slots.append(grid.order + len(parts.ids) + step * units)
    interval = 0.0 if visual.seconds_per_step is None else visual.seconds_per_step * TOKENS_PER_SECOND
    t, y, x = np.indices((steps, high, wide), dtype=np.int32).reshape(3, -1)
    t = (t * interval).astype(np.int32)
    parts.positions.append(np.stack([t, y, x]) + start)
    parts.ids += [-1] * (steps * units)
    highest = int(t[-1]) if visual.late_text else 0
    return start + max(high, wide, highest + 1)


class Packer:
    """Fills one pack. `add` says whether the conversation still fitted in."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: list[_Parts] = []
        self._skills: list[int] = []
        self._used = dict.fromkeys(("patches", "tokens", "rows", "windows", "frames", "sequences", "answers"), 0)

    @property
    def empty(self) -> bool:
        return not self._all

    def add(self, parts: _Parts, skill: int) -> bool:
        if max([len(parts.ids), *parts.frames]) > LONGEST:
            raise ValueError(f"{parts.frames} patches or {len(parts.ids)} tokens are more than attention covers")
        needs = {
            "patches": sum(parts.frames),
            "tokens": len(parts.ids),
            "rows": parts.row_count,
            "windows": len(parts.windows),
            "frames": len(parts.frames),
            "sequences": 1,
            "answers": len(parts.targets),
        }
        total = {name: self._used[name] + need for name, need in needs.items()}
        if not self._fits(total):
            return False
        self._used = total
        self._all.append(parts)
        self._skills.append(skill)
        return True

    def _fits(self, total: dict[str, int]) -> bool:
        limits = self._limits
        spare_patches = -(-(limits.patches - total["patches"]) // PAD_CHUNK)
        spare_tokens = -(-(limits.tokens - total["tokens"]) // PAD_CHUNK)
        return (
            all(total[name] <= getattr(limits, name) for name in ("patches", "tokens", "rows", "answers"))
            and total["windows"] + spare_patches <= limits.windows
            and total["frames"] + spare_patches <= limits.frames
            and total["sequences"] + spare_tokens <= limits.sequences
        )

    def finish(self) -> Pack:
        """The pack. `model.answer_logits` explains what the network reads of it; of the rest, `targets` and `weights`
        (answers,) are the tokens to be said and what each counts, `owner` the conversation of each, and `skills`
        (sequences,) the kind of question of each conversation, with -1 for none.
        """
        limits, parts = self._limits, self._all
        lengths = [len(part.ids) for part in parts]
        starts = np.cumsum([0, *lengths])
        row_starts = np.cumsum([0, *(part.row_count for part in parts)])
        slots = [slot + start for part, start in zip(parts, starts, strict=False) for slot in part.slots]
        pairs = [pair + start for part, start in zip(parts, row_starts, strict=False) for pair in part.row_pairs]
        answer_at = [at + start for part, start in zip(parts, starts, strict=False) for at in part.answer_at]
        owner = [number for number, part in enumerate(parts) for _ in part.targets]
        weights = [len(part.targets) ** -0.5 for part in parts for _ in part.targets]
        return {
            "rows": _fill(_join([row for part in parts for row in part.rows], (0, vision.ROW_BYTES)), limits.rows, 0),
            "row_pairs": _fill(_join(pairs, (2, 0), axis=1), limits.patches, 0, axis=1),
            "patch_positions": _fill(
                _join([p for part in parts for p in part.patch_positions], (0, 2)), limits.patches
            ),
            "windows": _offsets([w for part in parts for w in part.windows], limits.patches, limits.windows),
            "frames": _offsets([f for part in parts for f in part.frames], limits.patches, limits.frames),
            "slots": _fill(_join(slots, (0,)), limits.patches // vision.MERGE**2, limits.tokens),
            "ids": _fill(_join([np.array(part.ids, np.int32) for part in parts], (0,)), limits.tokens, -1),
            "positions": _fill(_join([p for part in parts for p in part.positions], (3, 0), 1), limits.tokens, axis=1),
            "sequences": _offsets(lengths, limits.tokens, limits.sequences),
            "answer_at": _fill(np.array(answer_at, np.int32), limits.answers),
            "targets": _fill(np.array([t for part in parts for t in part.targets], np.int64), limits.answers),
            "weights": _fill(np.array(weights, np.float32), limits.answers),
            "owner": _fill(np.array(owner, np.int32), limits.answers, -1),
            "skills": _fill(np.array(self._skills, np.int32), limits.sequences, -1),
        }


def _join(arrays: list[npt.NDArray[np.generic]], empty: tuple[int, ...], axis: int = 0) -> npt.NDArray[np.generic]:
    return np.concatenate(arrays, axis=axis) if arrays else np.zeros(empty, np.int32)


def _fill(array: npt.NDArray[np.generic], size: int, value: int = 0, axis: int = 0) -> npt.NDArray[np.generic]:
    """Extend `array` along `axis` to `size` entries."""
    shape = list(array.shape)
    shape[axis] = size
    whole = np.full(shape, value, array.dtype)
    whole[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return whole


def _offsets(lengths: list[int], total: int, count: int) -> npt.NDArray[np.int32]:
    """Where each of `count` sequences begins and ends, shape (count + 1,): the given ones, filling, empty ones."""
    spare = total - sum(lengths)
    filling = [PAD_CHUNK] * (spare // PAD_CHUNK) + ([spare % PAD_CHUNK] if spare % PAD_CHUNK else [])
    ends = np.cumsum([*lengths, *filling], dtype=np.int32)
    offsets = np.full(count + 1, total, np.int32)
    offsets[0] = 0
    offsets[1 : len(ends) + 1] = ends
    return offsets
