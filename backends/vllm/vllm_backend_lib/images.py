"""Images from the `image` input: base64 in, RGB out."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING, Any

from vllm_backend_lib.kernel import errors

if TYPE_CHECKING:
    from PIL import Image


def decode_images(elements: list[Any]) -> list[Image.Image]:
    """Decodes every element; slow, so it belongs on a thread. Raises InvalidRequestError naming the index."""
    return [_decode(f"image[{index}]", element) for index, element in enumerate(elements)]


def _decode(field: str, element: Any) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    data = _bytes(field, element)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:
        raise errors.invalid(field, data, "an image (PNG, JPEG, WebP, ...)") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise errors.InvalidRequestError(f"{field}: expected an image of at most {limit} pixels, got more") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        # Pillow's readers raise any of these on damaged files; their texts hold no paths, the source is in memory.
        raise errors.InvalidRequestError(f"{field}: the image cannot be decoded: {error}") from error


def _bytes(field: str, element: Any) -> bytes:
    """The decoded base64; line breaks are allowed, other foreign characters are not."""
    encoded = element.encode("utf-8") if isinstance(element, str) else bytes(element)
    try:
        return base64.b64decode(encoded.translate(None, b"\r\n\t "), validate=True)
    except binascii.Error as error:
        raise errors.invalid(field, encoded, f"an image in base64 ({error})") from error
