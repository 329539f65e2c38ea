"""Decode an image to RGB, after its header has passed the limits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vllm_custom.contract.image_formats import KNOWN_FORMATS
from vllm_custom.contract.image_formats import SAFE_FORMATS as SAFE_FORMATS
from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.decoders.frames import Size
from vllm_custom.media.decoders.job import IMAGE_BYTES, WHITE, Colour, ImageRules
from vllm_custom.media.decoders.kinds import kind_of
from vllm_custom.media.decoders.leniency import with_end, without_extras

Image.init()  # registers the readers named in the rules; Pillow does it lazily otherwise
# Our own limit stands in for Pillow's warning; broken metadata is not worth a word in the log. For the process and not
# with catch_warnings around each image: that is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
ORDINARY = ImageRules()
# Their readers take nearly any file for theirs.
_WITHOUT_SIGNATURE = ("SPIDER", "TGA")
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


def set_pixel_limit(max_pixels: int) -> None:
    """Make ``max_pixels`` the limit of Pillow, for the process, in place of its own of 179 million.

    Pillow checks at places that this module does not see, such as later frames and tiles, and refuses what is more
    than twice its limit.
    """
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2


def decode_image(
    data: bytes, field: str, max_pixels: int, sizes: Sequence[Size] = (), rules: ImageRules = ORDINARY
) -> Image.Image:
    """The image in mode RGB: EXIF orientation applied, without transparency, first frame of an animation.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"image[0]"``.
        max_pixels: width times height that is accepted; checked in the header.
        sizes: what it is resized to, one after the other.
        rules: what is opened, and what shows through.

    Raises:
        InvalidRequestError: not an image, too large, damaged, or without extent.
    """
    image = open_image(data, field, max_pixels, rules)
    try:
        return resized(to_rgb(_oriented(_loaded(image, data)), rules.background), sizes)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise damaged(image, field, error) from error


def measure_image(data: bytes, field: str, max_pixels: int, rules: ImageRules = ORDINARY) -> int:
    """How many bytes the image of :func:`decode_image` takes; nothing but the header is read.

    Raises:
        InvalidRequestError: not an image, too large, or damaged.
    """
    width, height = open_image(data, field, max_pixels, rules).size
    return width * height * IMAGE_BYTES


def shown_size(data: bytes, field: str, max_pixels: int, rules: ImageRules = ORDINARY) -> Size:
    """Width and height of the image of :func:`decode_image` where nothing is resized. Raises as it does."""
    image = open_image(data, field, max_pixels, rules)
    width, height = image.size
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def resized(image: Image.Image, sizes: Sequence[Size]) -> Image.Image:
    """The image after it was resized to each of ``sizes``, as qwen-vl-utils does."""
    for size in sizes:
        if image.size != tuple(size):
            image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def open_image(data: bytes, field: str, max_pixels: int, rules: ImageRules = ORDINARY) -> Image.Image:
    """Read the header only, and check format and size."""
    try:
        image = Image.open(io.BytesIO(without_extras(data)), formats=rules.formats)
    except UnidentifiedImageError as error:
        raise _no_image(data, field, rules) from error
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


def to_rgb(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """The current frame in mode RGB, with ``background`` where it is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if image.format in ("BMP", "DIB") and rgba.getchannel("A").getextrema() == (0, 0):
        return rgba.convert("RGB")  # not meant so: there are writers that leave the fourth byte empty
    ground = Image.new("RGB", rgba.size, tuple(background))
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def damaged(image: Image.Image, field: str, error: Exception) -> InvalidRequestError:
    """The error for a file whose pixels cannot be decoded."""
    state = "truncated" if "truncated" in str(error) else "damaged"
    return InvalidRequestError(f"{field}: the {image.format} file is {state} and cannot be decoded")


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """The image with its pixels."""
    try:
        image.load()
    except OSError:
        whole = with_end(data, lambda ended: _opened_again(ended, image))
        if whole is None:
            raise
        return whole
    return image


def _opened_again(data: bytes, image: Image.Image) -> Image.Image:
    again = Image.open(io.BytesIO(data), formats=("JPEG",))
    if again.size != image.size:
        raise ValueError(data[:16])
    again.load()
    return again


def _orientation(image: Image.Image) -> int:
    """By EXIF, from 1 to 8; 1 where that cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # metadata are not worth an image
        return 1
    return value if isinstance(value, int) else 1


def _oriented(image: Image.Image) -> Image.Image:
    """The image as it is to be shown. Pillow's own function writes the metadata anew, which may fail."""
    method = _TRANSPOSITIONS.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _no_image(data: bytes, field: str, rules: ImageRules) -> InvalidRequestError:
    expected = f"expected one of {', '.join(rules.formats)}"
    others = [name for name in KNOWN_FORMATS if name not in (*rules.formats, *_WITHOUT_SIGNATURE)]
    try:
        other = Image.open(io.BytesIO(data), formats=others).format
    except Image.DecompressionBombError:
        other = None
    except MemoryError:
        raise
    except Exception:  # none of them
        other = None
    if other is not None:
        return InvalidRequestError(f"{field}: {expected} (IMAGE_FORMATS of this model), got {other}")
    return InvalidRequestError(f"{field}: {expected}, got {kind_of(data) or 'data that is not an image'}")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16- and 32-bit grey to 8 bits: Pillow's own conversion makes everything above 255 white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 65535.0 if image.mode.startswith("I") and values.max(initial=0.0) <= 65535.0 else values.max(initial=1.0)
    scaled = np.clip(values / max(top, 1.0) * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled, mode="L").convert("RGB")
