"""What shapes_vl answers through the server about pictures that its training never saw, and transformers' own words."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.servers import SHAPES_VL
from tests.support.shapes import picture
from tools.installer.paths import CHECKOUT

pytestmark = pytest.mark.usefixtures("superset")

DESCRIBE = "Describe the image."
# Width, height -> how many are asked about, and the share that must be right. Large ones take seconds each.
SIZES = {
    (224, 224): (60, 0.98),
    (336, 252): (30, 0.98),
    (300, 448): (30, 0.98),
    (448, 448): (20, 0.98),
    (112, 112): (30, 0.95),
    (896, 896): (8, 0.95),
}
EQUALITY_CASES = 24


def ask(client: Client, image: bytes, question: str = DESCRIBE) -> str:
    answer = client.generate(MODEL, text_input=question, image=[b64(image)], temperature=0)
    assert answer.status == 200, answer.body
    return answer.text


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_unseen_images_are_described(client: Client, size: tuple[int, int]) -> None:
    count, share = SIZES[size]
    pictures = [picture(24_000 + index, size, jpeg=80 if index % 3 == 0 else None) for index in range(count)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda drawn: ask(client, drawn.encoded()), pictures))
    wrong = [(text, drawn.answer()) for text, drawn in zip(texts, pictures, strict=True) if text != drawn.answer()]
    assert 1 - len(wrong) / len(pictures) >= share, wrong


def test_greedy_texts_equal_those_of_transformers(client: Client, tmp_path: Path) -> None:
    cases = []
    for index in range(EQUALITY_CASES):
        size = [(112, 112), (224, 224), (160, 288), (400, 300)][index % 4]
        drawn = picture(25_000 + index, size)
        file = tmp_path / f"{index}.png"
        file.write_bytes(drawn.encoded())
        question = [DESCRIBE, "How many shapes are there?", "描述这张图片。", "What is the largest shape?"][index % 4]
        cases.append({"image": str(file), "question": question})
    listing = tmp_path / "cases.json"
    listing.write_text(json.dumps(cases))
    weights = SHAPES_VL / "1/weights"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.transformers_answers", str(weights), str(listing)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = json.loads(done.stdout.splitlines()[-1])
    got = [ask(client, Path(case["image"]).read_bytes(), case["question"]) for case in cases]
    assert got == expected
