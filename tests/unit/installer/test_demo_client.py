"""The demo's client against a small HTTP server that answers as Triton's generate endpoints do."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.support.shapes import picture
from tools.installer import demo_client


class FakeTriton(ThreadingHTTPServer):
    """Answers with `answer`, streamed as words; keeps the bodies of the requests."""

    answer = ""
    stream_error = ""
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, dict[str, object]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeTriton

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies[self.path.rpartition("/")[2]] = body
        self.send_response(self.server.status)
        self.end_headers()
        if self.server.status != 200:
            self.wfile.write(b'{"error":"no such thing"}')
        elif not self.path.endswith("_stream"):
            self.wfile.write(json.dumps({"model_name": "shapes_vl", "text_output": self.server.answer}).encode())
        elif self.server.stream_error:
            self._event({"error": self.server.stream_error})
        else:
            first, *rest = self.server.answer.split(" ")
            for piece in (first, *(f" {word}" for word in rest), ""):
                self._event({"text_output": piece})

    def _event(self, content: dict[str, str]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(triton: FakeTriton, folder: Path) -> bool:
    return demo_client.ask(triton.url, folder, seed=3, show=False)


def test_right_both_times(triton: FakeTriton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = picture(3, size=demo_client.SIZE).answer()
    triton.answer = truth
    assert ask(triton, tmp_path)
    shown = capsys.readouterr().out
    assert f"generate         {truth}\n" in shown
    assert f"generate_stream  {'| '.join(truth.split(' '))}\n" in shown
    assert "both answers are right" in shown


def test_both_requests_hold_the_image_that_is_shown(triton: FakeTriton, tmp_path: Path) -> None:
    ask(triton, tmp_path)
    saved = (tmp_path / "image.png").read_bytes()
    assert Image.open(io.BytesIO(saved)).size == demo_client.SIZE
    for endpoint, stream in (("generate", False), ("generate_stream", True)):
        body = triton.bodies[endpoint]
        assert body == {
            "text_input": demo_client.QUESTION,
            "image": [base64.b64encode(saved).decode()],
            "stream": stream,
        }


def test_a_wrong_answer_is_no_success(triton: FakeTriton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    triton.answer = "a square circle"
    assert not ask(triton, tmp_path)
    assert "WRONG" in capsys.readouterr().out


def test_an_error_of_the_server_is_told(triton: FakeTriton, tmp_path: Path) -> None:
    triton.status = 400
    with pytest.raises(RuntimeError, match=r"HTTP 400: .*no such thing"):
        ask(triton, tmp_path)


def test_an_error_within_the_stream_is_told(triton: FakeTriton, tmp_path: Path) -> None:
    triton.stream_error = "the engine is gone"
    with pytest.raises(RuntimeError, match="the engine is gone"):
        ask(triton, tmp_path)


def test_the_terminal_shows_upper_and_lower_pixel_in_one_character() -> None:
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    image.putpixel((0, 1), (0, 0, 255))
    assert demo_client.art(image, columns=2) == (
        "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m\u2580\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m\u2580\x1b[0m"
    )
