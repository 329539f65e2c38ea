"""Decode an image to RGB, after its header has passed the limits."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.decoders.job import IMAGE_BYTES

Image.init()  # registers the readers named below; Pillow does it lazily otherwise
# Our own limit stands in for Pillow's warning; broken metadata is not worth a word in the log. For the process and not
# with catch_warnings around each image: that is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Formats that are decoded. Pillow knows many more, some of them through external programs (EPS) or odd readers.
# JPEG's reader takes MPO files (several JPEGs in one, from cameras) as well.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def set_pixel_limit(max_pixels: int) -> None:
    """Make ``max_pixels`` the limit of Pillow, for the process, in place of its own of 179 million.

    Pillow checks at places that this module does not see, such as later frames and tiles, and refuses what is more
    than twice its limit.
    """
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2


def decode_image(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """The image in mode RGB: EXIF orientation applied, transparency on white, first frame of an animation.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"image[0]"``.
        max_pixels: width times height that is accepted; checked in the header.

    Raises:
        InvalidRequestError: not an image, too large, damaged, or without extent.
    """
    image = open_image(data, field, max_pixels)
    try:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidRequestError(f"{field}: the {image.format} file is damaged and cannot be decoded") from error


def measure_image(data: bytes, field: str, max_pixels: int) -> int:
    """How many bytes the image of :func:`decode_image` takes; nothing but the header is read.

    Raises:
        InvalidRequestError: not an image, too large, or damaged.
    """
    width, height = open_image(data, field, max_pixels).size
    return width * height * IMAGE_BYTES


def open_image(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Read the header only, and check format and size."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        expected = f"one of {', '.join(FORMATS)}"
        raise InvalidRequestError(f"{field}: expected {expected}, got data that is not an image") from error
    except Image.DecompressionBombError as error:  # Pillow's own check
        raise MediaLimitError(
            f"{field}: expected at most {max_pixels} pixels (IMAGE_MAX_PIXELS of this model), got more ({error})",
            "pixels",
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidRequestError(f"{field}: the image's header is damaged") from error
    check_pixels(image.size, field, max_pixels)
    return image


def check_pixels(size: tuple[int, int], field: str, max_pixels: int) -> None:
    """Refuse an image or frame of more than ``max_pixels``; ``size`` is its width and height."""
    width, height = size
    if width * height > max_pixels:
        raise MediaLimitError(
            f"{field}: expected at most {max_pixels} pixels (IMAGE_MAX_PIXELS of this model), "
            f"got {width} x {height} = {width * height}",
            "pixels",
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """The current frame in mode RGB, transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16- and 32-bit grey to 8 bits: Pillow's own conversion clips everything above 255 to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 65535.0 if image.mode.startswith("I") and values.max(initial=0.0) <= 65535.0 else values.max(initial=1.0)
    scaled = np.clip(values / max(top, 1.0) * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled, mode="L").convert("RGB")
