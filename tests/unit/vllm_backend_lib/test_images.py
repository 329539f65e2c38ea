"""Base64 to images."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image
from vllm_backend_lib.images import decode_images
from vllm_backend_lib.kernel import errors


def encoded(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (8, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return base64.b64encode(buffer.getvalue())


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("P", "GIF"), ("RGB", "WEBP")]
)
def test_images_come_out_as_rgb(mode: str, kind: str) -> None:
    (picture,) = decode_images([encoded(mode, kind)])
    assert (picture.mode, picture.size) == ("RGB", (8, 4))


def test_text_and_line_breaks_are_fine() -> None:
    assert len(decode_images([encoded().decode(), base64.encodebytes(base64.b64decode(encoded()))])) == 2


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (b"?!", "image[1]: expected an image in base64 ("),
        ("bild: é", "image[1]: expected an image in base64 ("),
        (b"", "image[1]: expected an image (PNG, JPEG, WebP, ...), got b''"),
        (base64.b64encode(b"GIF89a"), "image[1]: "),
        (base64.b64encode(base64.b64decode(encoded(size=(64, 64)))[:60]), "image[1]: the image cannot be decoded"),
    ],
)
def test_the_index_is_named(element: str | bytes, message: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        decode_images([encoded(), element])
    assert message in str(caught.value)
    assert "0x" not in str(caught.value)


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(errors.InvalidRequestError, match=r"image\[0\]: expected an image of at most 20 pixels"):
        decode_images([encoded()])
