"""Images become RGB, or are refused by name."""

import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import fakes
from tests.support.images import BLACK, BLUE, RED, WHITE, encode, gif, halves, png_header
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.image import decode_image, open_image, set_pixel_limit

# pytest resets the filter that the module installs.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

MAX_PIXELS = 1_000_000
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = decode_image(data, "image[0]", max_pixels)
    assert image.mode == "RGB"
    return image


def near(image: Image.Image, x: int, y: int, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.array(image.getpixel((x, y))) - colour).max() <= 12)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_keeps_its_image(image_format: str) -> None:
    image = decode(encode(halves(), image_format))
    assert image.size == (32, 16)
    assert near(image, 4, 8, RED)
    assert near(image, 27, 8, BLUE)


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (32, 16), (4, 8)),
        (2, (32, 16), (27, 8)),
        (3, (32, 16), (27, 8)),
        (4, (32, 16), (4, 8)),
        (5, (16, 32), (8, 4)),
        (6, (16, 32), (8, 4)),
        (7, (16, 32), (8, 27)),
        (8, (16, 32), (8, 27)),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(
    image_format: str, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = decode(encode(halves(), image_format, exif=exif, **options))
    assert image.size == size
    assert near(image, *red, RED)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"nonsense"])
def test_broken_metadata_do_not_matter(exif: bytes) -> None:
    assert near(decode(encode(halves(), "JPEG", exif=exif)), 4, 8, RED)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode: str) -> None:
    image = halves("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    data = encode(image.convert(mode) if mode != "PA" else image.quantize(), "PNG")
    decoded = decode(data)
    assert near(decoded, 4, 8, WHITE)
    assert not near(decoded, 27, 8, WHITE)


@pytest.mark.parametrize(
    ("mode", "key"), [("P", 0), ("L", 0), ("1", 0), ("RGB", (0, 0, 0))], ids=["palette", "grey", "bits", "rgb"]
)
def test_a_transparent_colour_shows_white(mode: str, key: object) -> None:
    assert near(decode(encode(Image.new(mode, (8, 8)), "PNG", transparency=key)), 4, 4, WHITE)


@pytest.mark.parametrize(("mode", "image_format"), [("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF")])
def test_palettes_and_cmyk_keep_their_colours(mode: str, image_format: str) -> None:
    image = decode(encode(halves(mode), image_format))
    assert near(image, 4, 8, RED)
    assert near(image, 27, 8, BLUE)


@pytest.mark.parametrize(("mode", "value", "grey"), [("L", 200, 200), ("1", 1, 255), ("LA", (200, 255), 200)])
def test_grey_becomes_rgb(mode: str, value: object, grey: int) -> None:
    assert near(decode(encode(Image.new(mode, (8, 8), value), "PNG")), 4, 4, (grey, grey, grey))


@pytest.mark.parametrize(
    ("values", "image_format"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), "PNG"),
        (np.array([[0, 32768, 65535]], np.uint16), "TIFF"),
        (np.array([[0, 32768, 65535]], np.int32), "TIFF"),
        (np.array([[0, 500_000, 1_000_000]], np.int32), "TIFF"),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "TIFF"),
        (np.array([[-1.0, 128.0, 256.0]], np.float32), "TIFF"),
        (np.array([[np.nan, 128.0, 256.0]], np.float32), "TIFF"),
    ],
    ids=["uint16-png", "uint16-tiff", "int32-16bit", "int32", "unit-float", "float", "float-nan"],
)
def test_deep_grey_is_scaled_and_not_clipped(values: object, image_format: str) -> None:
    image = decode(encode(Image.fromarray(values), image_format))  # type: ignore[arg-type]
    assert [image.getpixel((x, 0))[0] for x in range(3)] == pytest.approx([0, 127, 255], abs=1)  # type: ignore[index]


def test_an_animation_gives_its_first_frame() -> None:
    assert near(decode(gif([BLUE, RED, BLACK])), 4, 4, BLUE)


def test_a_cameras_file_of_several_jpegs_gives_the_first() -> None:
    data = encode(halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 16))])
    assert near(decode(data), 4, 8, RED)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_cut_off_file_is_refused(image_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encode(noise, image_format)
    with pytest.raises(InvalidRequestError, match=r"^image\[0\]: "):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"image\[0\]: expected one of JPEG, PNG"):
        decode(data)


@pytest.mark.parametrize(
    ("image_format", "named"),
    [
        ("ICO", r"\(IMAGE_FORMATS of this model\), got ICO"),
        ("PPM", r"\(IMAGE_FORMATS of this model\), got PPM"),
        ("PCX", r"\(IMAGE_FORMATS of this model\), got PCX"),
        ("JPEG2000", r"\(IMAGE_FORMATS of this model\), got JPEG2000"),
        ("TGA", ", got data that is not an image"),
        ("PDF", ", got PDF"),
        ("EPS", ", got PostScript"),
    ],
)
def test_formats_off_the_list_are_refused_by_name(image_format: str, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"expected one of JPEG, PNG, .*AVIF ?{named}$"):
        decode(encode(halves(), image_format))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1001, 1000), r"at most 1000000 pixels \(IMAGE_MAX_PIXELS of this model\), got 1001 x 1000 = 1001000"),
        ((12_000, 12_000), r"at most 1000000 pixels \(IMAGE_MAX_PIXELS of this model\), got 12000 x 12000 = 144000000"),
        ((100_000, 100_000), r"at most 1000000 pixels \(IMAGE_MAX_PIXELS of this model\), got more"),
    ],
)
def test_a_pixel_bomb_is_refused_from_its_header(size: tuple[int, int], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decode(png_header(*size))


def test_a_limit_above_pillows_own_has_effect() -> None:
    """Pillow refuses 179 million pixels and more by itself."""
    own = Image.MAX_IMAGE_PIXELS
    side = 20_000
    try:
        set_pixel_limit(side * side)
        assert open_image(png_header(side, side), "image[0]", side * side).size == (side, side)
        with pytest.raises(InvalidRequestError, match=r"at most 400000000 pixels \(IMAGE_MAX_PIXELS"):
            open_image(png_header(side + 1, side), "image[0]", side * side)
    finally:
        Image.MAX_IMAGE_PIXELS = own


def test_the_limit_itself_is_allowed() -> None:
    data = encode(halves(size=(20, 10)))
    assert decode(data, 200).size == (20, 10)
    with pytest.raises(InvalidRequestError, match="20 x 10 = 200"):
        decode(data, 199)


def test_decoding_in_threads_leaves_the_processs_warning_filters_alone() -> None:
    data = encode(halves(size=(64, 64)), "JPEG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(30)]) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert list(warnings.filters) == before


_VALID = [encode(halves(), image_format) for image_format in FORMATS] + [gif([RED, BLUE]), encode(halves("P"), "TIFF")]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_VALID), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_files_give_an_image_or_our_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    _, error = fakes.outcome(lambda: decode(bytes(damaged)))
    assert error is None or str(error).startswith("image[0]: ")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_VALID), st.integers(0, 2000), st.binary(max_size=64))
def test_spliced_files_give_an_image_or_our_error(data: bytes, cut: int, tail: bytes) -> None:
    _, error = fakes.outcome(lambda: decode(data[: cut % len(data)] + tail))
    assert error is None or str(error).startswith("image[0]: ")
