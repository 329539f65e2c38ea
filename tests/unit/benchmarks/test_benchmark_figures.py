"""What the benchmarks make of the moments that they measure."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks import protocols, report
from benchmarks.load import Cell, summarise
from benchmarks.protocols import Record, Target


def test_figures_of_two_answers() -> None:
    records = [
        Record(sent=10.0, chunks=[10.5, 11.0, 12.0], ended=12.0, text="abcd"),
        Record(sent=11.0, chunks=[12.5], ended=14.0, text="abcd"),
    ]
    got = summarise("t", Cell("c", 2, 2, max_tokens=4), records)
    assert (got.seconds, got.requests_per_second, got.tokens_per_second) == (4.0, 0.5, 2.0)
    assert (got.chunks_per_second, got.tokens_per_chunk) == (1.0, 2.0)
    assert (got.first_p50, got.gap_p50, got.total_p50) == (1.0, 0.75, 2.5)


def test_one_chunk_each_has_no_gaps() -> None:
    got = summarise("t", Cell("c", 1, 1, max_tokens=4), [Record(sent=0.0, chunks=[1.0], ended=1.0)])
    assert (got.gap_p50, got.gap_p99) == (0.0, 0.0)


def test_the_same_request_for_every_target_and_another_one_next() -> None:
    cell = Cell("c", 1, 2, max_tokens=4)
    assert cell.job(0) == cell.job(0)
    assert cell.job(0) != cell.job(1)
    images = Cell("c", 1, 2, max_tokens=4, image_pixels=32)
    assert images.job(0) == images.job(0)
    assert images.job(0).images != images.job(1).images


def test_images_come_again_where_so_many_are_different() -> None:
    several = Cell("c", 1, 8, max_tokens=4, image_pixels=32, images=3, different=4)
    sent = [image for index in range(4) for image in several.job(index).images]
    assert len(sent) == 12
    assert len(set(sent)) == 4


def test_targets_are_named_on_the_command_line() -> None:
    assert Target.parse("a=grpc,127.0.0.1:8001,m") == Target("a", "grpc", "127.0.0.1:8001", "m")
    for wrong in ("grpc,127.0.0.1:8001,m", "a=ftp,127.0.0.1:8001,m", "a=grpc,127.0.0.1:8001"):
        with pytest.raises(ValueError, match="expected NAME=PROTOCOL,ADDRESS,MODEL"):
            Target.parse(wrong)


class Blocks:
    """The body of a response that arrives in ``blocks``."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = blocks
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block


async def test_events_are_found_however_they_are_cut() -> None:
    whole = b'data: {"a": 1}\n\ndata: {"a": 2}\n\n: a comment\n\ndata: [DONE]\n\n'
    for size in (1, 7, len(whole)):
        response = Blocks(*(whole[start : start + size] for start in range(0, len(whole), size)))
        found = [event async for event in protocols._events(response)]  # type: ignore[arg-type]
        assert found == [b'{"a": 1}', b'{"a": 2}', b"[DONE]"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"text": "a"}]}, "a"),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, ""),
        ({"choices": [{"delta": {"content": "b"}}]}, "b"),
        ({"choices": [{"message": {"content": "c"}}]}, "c"),
        ({"choices": []}, ""),
    ],
)
def test_the_text_of_openai_bodies(body: dict[str, object], text: str) -> None:
    assert protocols._openai_text(body) == text


def test_the_table_has_medians_and_ratios(tmp_path: Path) -> None:
    rows = [
        {"cell": "c", "target": target, "tokens_per_second": value}
        for target, value in (("a", 100.0), ("b", 50.0), ("a", 300.0), ("b", 150.0), ("a", 200.0), ("b", 1.0))
    ]
    shown = report.table(rows, {"tokens/s": report.number("tokens_per_second")}, baseline="a")
    assert shown.splitlines()[2:] == ["| c | a | 200 | 1.00 |", "| c | b | 50 | 0.25 |"]
    report.write_json(tmp_path / "new/results.json", rows, cores=2)
    assert json.loads((tmp_path / "new/results.json").read_text()) == {"cores": 2, "rows": rows}
