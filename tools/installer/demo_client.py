"""The client part of `demo`: draws an image, sends it through generate and generate_stream, checks the answers.

Runs on the environment's Python, as `python -m tools.installer.demo_client`.
"""

import argparse
import base64
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.support.shapes import picture

MODEL = "shapes_vl"
QUESTION = "Describe the image."
SIZE = (448, 336)
_TIMEOUT_SECONDS = 120
_ART_COLUMNS = 56


def body(image: bytes, stream: bool) -> dict[str, object]:
    """The request that a user would write."""
    return {"text_input": QUESTION, "image": [base64.b64encode(image).decode()], "stream": stream}


def generate(url: str, image: bytes) -> str:
    """The whole answer at once."""
    with _post(f"{url}/v2/models/{MODEL}/generate", body(image, stream=False)) as response:
        return str(json.load(response)["text_output"])


def generate_stream(url: str, image: bytes) -> Iterator[str]:
    """The answer piece by piece, as the model writes it. Raises RuntimeError on an error sent in the stream."""
    with _post(f"{url}/v2/models/{MODEL}/generate_stream", body(image, stream=True)) as response:
        for line in response:
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:
                    raise RuntimeError(event["error"])
                yield event["text_output"]


def _post(url: str, content: dict[str, object]) -> "urllib.response.addinfourl":
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})  # noqa: S310
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response: urllib.response.addinfourl = opener.open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"HTTP {error.code}: {error.read().decode(errors='replace')}") from error
    return response


def art(image: Image.Image, columns: int = _ART_COLUMNS) -> str:
    """The image in a terminal with 24-bit colours: each character shows two pixels, one above the other."""
    rows = max(1, round(columns * image.height / image.width / 2))
    small = image.convert("RGB").resize((columns, rows * 2), Image.Resampling.BOX)
    lines = []
    for row in range(0, rows * 2, 2):
        cells = []
        for column in range(columns):
            upper, lower = _rgb(small, column, row), _rgb(small, column, row + 1)
            cells.append(f"\x1b[38;2;{upper}m\x1b[48;2;{lower}m\u2580")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _rgb(image: Image.Image, column: int, row: int) -> str:
    pixel = image.getpixel((column, row))
    assert isinstance(pixel, tuple)
    return ";".join(str(part) for part in pixel)


def ask(url: str, folder: Path, seed: int, show: bool) -> bool:
    """The whole conversation, printed. Returns whether both answers are right."""
    drawn = picture(seed, size=SIZE)
    buffer = io.BytesIO()
    drawn.image.save(buffer, "PNG")
    path = folder / "image.png"
    path.write_bytes(buffer.getvalue())
    if show:
        print(f"\n{art(drawn.image)}")
    shown_path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(f"\nimage            {shown_path} ({drawn.image.width}x{drawn.image.height}, seed {seed})")
    print(f"question         {QUESTION}")
    answer = generate(url, buffer.getvalue()).strip()
    print(f"generate         {answer}")
    print("generate_stream  ", end="", flush=True)
    pieces: list[str] = []
    for piece in generate_stream(url, buffer.getvalue()):
        if piece:  # the last one may hold nothing but the end
            print(f"{'|' if pieces else ''}{piece}", end="", flush=True)
            pieces.append(piece)
    streamed = "".join(pieces).strip()
    truth = drawn.answer()
    print(f"\ntruth            {truth}")
    right = answer == truth and streamed == truth
    print(f"                 {'both answers are right' if right else 'WRONG'}\n", flush=True)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http-url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--show", action="store_true", help="draw the image in the terminal")
    options = parser.parse_args()
    try:
        return 0 if ask(options.http_url, options.folder, options.seed, options.show) else 1
    except (RuntimeError, OSError) as error:
        print(f"\nthe server did not answer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
