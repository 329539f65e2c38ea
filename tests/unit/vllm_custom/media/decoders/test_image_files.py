"""Image files as people send them: what browsers show is decoded, and what is refused is named."""

from __future__ import annotations

import io
import random
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.decoder_workers import loader
from tests.support.images import RED, WHITE, encode, halves, png_header
from tools.installer.paths import CHECKOUT
from vllm_custom.contract.image_formats import KNOWN_FORMATS, SAFE_FORMATS
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError, InvalidRequestError
from vllm_custom.media.decoders.image import decode_image, shown_size
from vllm_custom.media.decoders.job import ImageRules
from vllm_custom.media.decoding import background_of
from vllm_custom.media.elements import MediaElement

# pytest resets the filter that the module installs.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

MAX_PIXELS = 2_000_000


def decode(data: bytes, **rules: Any) -> Image.Image:
    image = decode_image(data, "image[0]", MAX_PIXELS, rules=ImageRules(**rules))
    assert shown_size(data, "image[0]", MAX_PIXELS, ImageRules(**rules)) == image.size
    return image


def noise(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(values).convert(mode)


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


# PNG


def chunk(kind: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data) ^ wrong)


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with more chunks after its header."""
    png = encode(image or noise())
    return png[:33] + b"".join(chunks) + png[33:]


LONG = b'{"node": 1} ' * 120_000
_XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
_TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # EXIF with an orientation of 6
EXTRAS = {
    "a long compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "a long text": chunk(b"tEXt", b"prompt\0" + LONG),
    "a long international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)),
    "many texts": b"".join(chunk(b"tEXt", b"part\0" + bytes([65]) * 500_000) for _ in range(140)),
    "a large profile": chunk(b"iCCP", b"printer\0\0" + zlib.compress(b"\0\1\2\3" * 350_000)),
    "a broken profile": chunk(b"iCCP", b"printer\0\0no deflate"),
    "a comment with a wrong sum": chunk(b"tEXt", b"Comment\0by a camera", wrong=1),
    "a gamma with a wrong sum": chunk(b"gAMA", struct.pack(">L", 45_455), wrong=1),
    "a gamma that is cut off": chunk(b"gAMA", b"\0"),
    "EXIF with a wrong sum": chunk(b"eXIf", _TURNED, wrong=1),
    "a private chunk": chunk(b"prVt", b"x" * 1000),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_the_pixels_of_a_png_do_not_need_is_ignored(extra: str) -> None:
    assert same(decode(png_with(EXTRAS[extra])), noise())


def test_what_they_need_is_kept() -> None:
    exif = chunk(b"eXIf", _TURNED)
    assert same(decode(png_with(EXTRAS["a long text"], exif)), noise().transpose(Image.Transpose.ROTATE_270))
    written = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP)
    assert decode(png_with(EXTRAS["a long text"], written)).size == (32, 48)
    grey = encode(Image.new("L", (8, 8), 7))
    clear = grey[:33] + EXTRAS["a broken profile"] + chunk(b"tRNS", b"\0\7") + grey[33:]
    assert decode(clear).getpixel((0, 0)) == WHITE


def test_sums_of_the_pixels_count() -> None:
    png = bytearray(encode(noise()))
    png[png.index(b"IDAT") + 40] ^= 1
    with pytest.raises(InvalidRequestError, match="the PNG file is damaged"):
        decode(bytes(png))


def test_a_png_may_lack_its_end_but_no_pixels() -> None:
    png = encode(noise())
    assert same(decode(png[:-12]), noise())
    with pytest.raises(InvalidRequestError, match=r"the PNG file is (truncated|damaged)"):
        decode(png[:-400])


# JPEG


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_may_lack_its_end_marker(options: dict[str, Any], cut: int) -> None:
    jpeg = encode(noise(), "JPEG", **options)
    assert jpeg.endswith(b"\xff\xd9")
    assert same(decode(jpeg[:-cut]), decode(jpeg))


@pytest.mark.parametrize("kept", [0.5, 0.8, 0.95])
def test_a_jpeg_may_not_lack_pixels(kept: float) -> None:
    jpeg = encode(noise(), "JPEG")
    with pytest.raises(InvalidRequestError, match="the JPEG file is truncated and cannot be decoded"):
        decode(jpeg[: int(len(jpeg) * kept)])


def jpeg_with_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Stored turned; the orientation (6) turns it back. Entries: tag, type, count, value."""
    stored = encode(halves().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    every = [(0x0112, 3, 1, struct.pack("<H", 6)), *entries]
    heap_at = 8 + 2 + 12 * len(every) + 4
    table, heap = struct.pack("<H", len(every)), b""
    for tag, kind, count, value in every:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<L", heap_at + len(heap))
        heap += value if len(value) > 4 else b""
        table += struct.pack("<HHL", tag, kind, count) + place
    body = b"Exif\0\0II*\0" + struct.pack("<L", 8) + table + struct.pack("<L", 0) + heap
    return stored[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + stored[2:]


@pytest.mark.parametrize(
    "entry",
    [
        (0x011A, 10, 1, struct.pack("<ll", -1, 0)),
        (0x011A, 5, 1, struct.pack("<LL", 72, 0)),
        (0x927C, 7, 9, b"makernote"),
        (0x010F, 13, 1, b"abcd"),
        (0x9286, 2, 5, b"\xff\xfe\xfd\xfc\0"),
        (0x8769, 4, 1, struct.pack("<L", 2**31)),
    ],
    ids=["signed", "zero", "maker", "type", "bytes", "offset"],
)
def test_exif_that_cannot_be_written_again(entry: tuple[int, int, int, bytes]) -> None:
    """Only the orientation is looked at."""
    image = decode(jpeg_with_exif(entry))
    assert image.size == (32, 16)
    assert np.abs(np.array(image.getpixel((4, 8))) - RED).max() <= 12


# Colours


def _png_16_bits(colour: int) -> bytes:
    """Of RGB (colour type 2) or RGB with alpha (6)."""
    channels = {2: 3, 6: 4}[colour]
    random.seed(3)
    rows = b"".join(b"\0" + random.randbytes(8 * channels * 2) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _palette_with_alpha() -> Image.Image:
    image = noise("P")
    image.info["transparency"] = bytes(range(256))
    return image


COLOURS: dict[str, Callable[[], bytes]] = {
    "rgb": lambda: encode(noise()),
    "rgba": lambda: encode(noise("RGBA")),
    "grey-alpha": lambda: encode(noise("LA")),
    "palette": lambda: encode(noise("P")),
    "palette-alpha": lambda: encode(_palette_with_alpha(), transparency=bytes(range(256))),
    "rgb-transparent-colour": lambda: encode(noise(), transparency=(255, 0, 0)),
    "bits": lambda: encode(noise("1")),
    "rgb-16": lambda: _png_16_bits(2),
    "rgba-16": lambda: _png_16_bits(6),
    "cmyk-jpeg": lambda: encode(noise("CMYK"), "JPEG"),
    "cmyk-tiff": lambda: encode(noise("CMYK"), "TIFF"),
    "ycbcr-tiff": lambda: encode(noise("YCbCr"), "TIFF"),
    "lab-tiff": lambda: encode(noise().convert("RGB"), "TIFF", compression="tiff_lzw"),
    "webp-alpha": lambda: encode(noise("RGBA"), "WEBP", lossless=True),
    "gif": lambda: encode(noise("P"), "GIF", transparency=3),
    "avif": lambda: encode(noise(), "AVIF"),
    "avif-alpha": lambda: encode(noise("RGBA"), "AVIF"),
    "bmp": lambda: encode(noise(), "BMP"),
    "jpeg-turned": jpeg_with_exif,
    "jpeg-grey": lambda: encode(noise("L"), "JPEG"),
    "ppm": lambda: encode(noise(), "PPM"),
    "jpeg2000": lambda: encode(noise(), "JPEG2000"),
    "ico": lambda: encode(noise("RGBA"), "ICO"),
    "tga": lambda: encode(noise("RGBA"), "TGA"),
    "pcx": lambda: encode(noise(), "PCX"),
    "sgi": lambda: encode(noise(), "SGI"),
    "dds": lambda: encode(noise("RGBA"), "DDS"),
    "icns": lambda: encode(noise("RGBA", (64, 64)), "ICNS"),
    "qoi": lambda: encode(noise("RGBA"), "QOI"),
}


@pytest.mark.slow
@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), (10, 200, 90)], ids=str)
@pytest.mark.parametrize("kind", COLOURS)
def test_pixels_are_those_of_vllms_own_reader(vllm: None, kind: str, background: tuple[int, int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.multimodal.media import ImageMediaIO

        data = COLOURS[kind]()
        expected = ImageMediaIO(rgba_background_color=background).load_bytes(data).media
    assert same(decode(data, formats=KNOWN_FORMATS, background=background), expected)


def test_a_transparent_image_shows_the_models_background() -> None:
    data = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert decode(data).getpixel((0, 0)) == WHITE
    assert decode(data, background=(10, 20, 30)).getpixel((0, 0)) == (10, 20, 30)
    assert background_of({"rgba_background_color": [10, 20, 30]}) == (10, 20, 30)
    assert background_of({}) is None


@pytest.mark.parametrize("value", [[0, 0], [0, 0, 256], "black", [0, 0, 0.5], [0, 0, True]])
def test_a_background_that_is_no_colour(value: object) -> None:
    with pytest.raises(ConfigError, match="rgba_background_color: expected a list of three whole numbers from 0 to 25"):
        background_of({"rgba_background_color": value})


def test_a_bitmap_whose_fourth_byte_is_empty_is_no_clear_one() -> None:
    """As screenshots are written; browsers show them."""
    image = noise()
    pixels = bytearray(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRX"))
    pixels[3::4] = bytes(len(pixels) // 4)
    header = struct.pack("<LllHHLLllLL", 124, *image.size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    data = struct.pack("<2sLHHL", b"BM", 14 + 124 + len(pixels), 0, 0, 14 + 124) + header + bytes(pixels)
    assert same(decode(data), image)


# What is allowed, and what is said of the rest


def test_every_kind_that_vllm_opens_can_be_allowed(vllm: None) -> None:
    from vllm.multimodal.image import ALLOWED_IMAGE_FORMATS

    assert set(KNOWN_FORMATS) == set(ALLOWED_IMAGE_FORMATS)
    assert "AVIF" in SAFE_FORMATS


def test_every_kind_has_a_seed_for_the_fuzzer() -> None:
    folder = CHECKOUT / "tests/fuzz/corpus/image"
    seeds = [io.BytesIO(path.read_bytes()) for path in folder.iterdir() if not path.name.startswith("found_")]
    assert {Image.open(seed).format for seed in seeds} == set(SAFE_FORMATS)


@pytest.mark.parametrize("page", ["reference.md", "guides/media.md", "guides/media.zh.md"])
def test_every_kind_is_named_where_people_look(page: str) -> None:
    (row, *_) = re.findall(r"^\| `image` \|.*", (CHECKOUT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in SAFE_FORMATS if name not in row.upper()] == []


def settings(formats: str) -> Settings:
    return Settings.from_model_config({"name": "m", "parameters": {"IMAGE_FORMATS": {"string_value": formats}}})


def test_the_operator_allows_kinds() -> None:
    assert settings("png, JPEG2000").image_formats == ("PNG", "JPEG2000")
    assert Settings.from_model_config({"name": "m"}).image_formats == SAFE_FORMATS
    data = encode(noise(), "JPEG2000")
    assert same(decode(data, formats=("PNG", "JPEG2000")), noise())
    with pytest.raises(InvalidRequestError, match=r"^image\[0\]: expected one of PNG \(IMAGE_FORMATS .*\), got JPEG$"):
        decode(encode(noise(), "JPEG"), formats=("PNG",))


@pytest.mark.parametrize("formats", ["", "EPS", "PNG, WMF", "JPG"])
def test_a_kind_that_nobody_may_allow(formats: str) -> None:
    with pytest.raises(ConfigError, match="IMAGE_FORMATS: expected a list of names such as JPEG, PNG"):
        settings(formats)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF image"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08moov", "an MP4 file"),
        (b"<!DOCTYPE html><html><body>403 Forbidden", "an HTML page"),
        (b"\xef\xbb\xbf  <html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\xff\x0a\xff\x1f", "a JPEG XL image"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b'{"error": "not found"}', "JSON"),
        (b"iVBORw0KGgoAAAANSUhEUgAA", "base64 of base64, or of a data: URI"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a WAV file"),
        (b"neither this nor that", "data that is not an image"),
    ],
)
def test_what_is_refused_is_named(data: bytes, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(data)
    assert str(caught.value) == f"image[0]: expected one of {', '.join(SAFE_FORMATS)}, got {name}"


def test_extras_do_not_hide_how_large_an_image_is() -> None:
    bomb = png_header(2000, 2000)
    with pytest.raises(InvalidRequestError, match="IMAGE_MAX_PIXELS"):
        decode(bomb[:33] + EXTRAS["a long text"] + bomb[33:])


def test_a_file_of_nothing_but_chunks_is_gone_through_quickly() -> None:
    """Each of them has no more than twelve bytes."""
    png = encode(noise())
    data = png[:33] + chunk(b"prVt", b"") * 200_000 + png[33:]
    assert same(decode(data), noise())


@pytest.mark.parametrize("kind", ["avif", "avif-alpha", "jpeg2000", "ico", "qoi", "dds", "icns", "jpeg-turned"])
async def test_workers_read_them_too(kind: str) -> None:
    """They can open no file and start no process; AVIF is decoded in several threads."""
    data = COLOURS[kind]()
    with loader(IMAGE_FORMATS=", ".join(KNOWN_FORMATS)) as media:
        (loaded,) = await media.load([MediaElement("image", "image[0]", data)])
        assert same(loaded.data, decode(data, formats=KNOWN_FORMATS))


async def test_a_large_avif_is_read_by_a_worker() -> None:
    image = Image.linear_gradient("L").resize((3000, 2000)).convert("RGB")
    with loader() as media:
        (loaded,) = await media.load([MediaElement("image", "image[0]", encode(image, "AVIF", speed=10))])
        assert loaded.data.size == (3000, 2000)
