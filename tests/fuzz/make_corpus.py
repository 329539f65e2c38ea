"""Writes tests/fuzz/corpus anew, one small file for each kind of input: ``python -m tests.fuzz.make_corpus``.

What fuzzing found (``found_...``) is kept.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.support.audio import film, greys, sound, tone
from vllm_custom.media.decoders.frame_list import pack_frames

CORPUS = Path(__file__).with_name("corpus")
SIDE = 12


def picture(mode: str = "RGB") -> Image.Image:
    """A few colours."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    rest = [picture().rotate(90), picture().rotate(180)]
    texts_of_png = PngImagePlugin.PngInfo()
    texts_of_png.add_text("workflow", "{}" * 50, zip=True)
    texts_of_png.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    return {
        "avif": encode(picture("RGBA"), "AVIF"),
        "jpeg_without_end": encode(picture(), "JPEG")[:-2],
        "png_texts": encode(picture(), "PNG", pnginfo=texts_of_png, exif=exif),
        "jpeg": encode(picture(), "JPEG"),
        "jpeg_exif": encode(picture(), "JPEG", exif=exif),
        "jpeg_cmyk": encode(picture("CMYK"), "JPEG"),
        "jpeg_progressive": encode(picture("L"), "JPEG", progressive=True),
        "png": encode(picture(), "PNG"),
        "png_palette": encode(picture("P"), "PNG", transparency=0),
        "png_alpha": encode(picture("RGBA"), "PNG"),
        "png_16": encode(picture("I;16"), "PNG"),
        "png_bit": encode(picture("1"), "PNG"),
        "webp": encode(picture(), "WEBP"),
        "webp_lossless": encode(picture("RGBA"), "WEBP", lossless=True),
        "webp_animated": encode(picture(), "WEBP", save_all=True, append_images=rest),
        "gif": encode(picture("P"), "GIF", transparency=1),
        "gif_animated": encode(picture(), "GIF", save_all=True, append_images=rest),
        "bmp": encode(picture(), "BMP"),
        "bmp_palette": encode(picture("P"), "BMP"),
        "tiff": encode(picture(), "TIFF"),
        "tiff_lzw": encode(picture(), "TIFF", compression="tiff_lzw"),
        "tiff_float": encode(picture("F"), "TIFF"),
    }


def videos() -> dict[str, bytes]:
    import av

    frames = [encode(picture().rotate(angle), "JPEG") for angle in (0, 90, 180)]
    found = {"gif": images()["gif_animated"], "frames": pack_frames(frames)}
    for name, kind, codec in (("mp4", "mp4", "mpeg4"), ("webm", "webm", "libvpx")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=5)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for index in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index * 60, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        found[name] = buffer.getvalue()
    return found


def audio_files() -> dict[str, bytes]:
    samples = tone(seconds=0.05)
    found = {kind.lower(): sound(samples, kind) for kind in ("WAV", "FLAC", "MP3", "OGG")}
    return found | {"mp4": film(greys(2, (32, 32)), codec="mpeg4", audio=tone(seconds=0.05, rate=48_000))}


def texts() -> dict[str, dict[str, bytes]]:
    png = images()["png"]
    encoded = base64.b64encode(png)
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded.decode()}"}},
        {"type": "video_url", "video_url": "http://media.test/a.mp4"},
        {"type": "text", "text": "hi", "uuid": "x", "image_embeds": "y"},
        {"type": "refusal", "refusal": "no"},
        {"type": "image", "image": "AAAA", "min_pixels": 784, "resized_height": 28, "resized_width": 28},
        {"type": "video", "video": ["AAAA", "BBBB"], "fps": 2, "video_start": 0.5, "max_frames": 8},
        "plain",
    ]
    return {
        "reference": {
            "base64": encoded,
            "url_safe": base64.urlsafe_b64encode(png),
            "lines": base64.encodebytes(png),
            "data_uri": b"data:image/png;base64," + encoded,
            "data_frames": b"data:video/jpeg;base64," + encoded + b"," + encoded,
            "data_spaces": b"data: image/png; base64 , " + encoded + b"#x",
            "data_percent": b" DATA:text/plain;charset=utf-8,%41%zz+b",
            "raw": png,
            "http": b"http://media.test/a.png",
            "file": b"file:///a.png",
        },
        "url": {
            "plain": b"http://media.test/a.png?b=c#d",
            "port": b"HTTPS://A.cdn.test:8080/",
            "credentials": b"http://user:pass@media.test/",
            "octal": b"http://0177.0.0.1/",
            "decimal": b"http://2130706433/",
            "mapped": b"http://[::ffff:127.0.0.1]/",
            "zone": b"http://[fe80::1%25lo]/",
            "unicode": "http://ｍｅｄｉａ。test/ü".encode(),
            "relative": b"../x/../y?z",
            "scheme_relative": b"//media.test/a",
            "backslash": b"http:\\\\media.test\\@evil.test/",
        },
        "local": {
            "inside": b"file://FOLDER/inside/a.png",
            "localhost": b"file://localhost/FOLDER/inside/a.png",
            "dots": b"file://FOLDER/inside/../secret",
            "escaped": b"file:FOLDER/inside/%2e%2e/secret",
            "link": b"file://FOLDER/inside/link",
            "null": b"file://FOLDER/inside/a.png%00",
        },
        "messages": {
            "parts": json.dumps([{"role": "user", "content": parts}]).encode(),
            "plain": json.dumps([{"role": "system", "content": "hi"}, {"role": "assistant", "content": None}]).encode(),
        },
    }


def write(name: str, files: Mapping[str, bytes]) -> None:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed, data in files.items():
        (folder / seed).write_bytes(data)


def main() -> int:
    for name, files in {**texts(), "image": images(), "video": videos(), "audio": audio_files()}.items():
        write(name, files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
