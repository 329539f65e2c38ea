"""Names for files that are refused, by how they begin."""

from __future__ import annotations

_BEGINNINGS = {
    "an HTML page": (b"<!doctype html", b"<html", b"<head", b"<body"),
    "SVG": (b"<svg", b"<?xml", b"<!doctype svg"),
    "PDF": (b"%pdf-",),
    "PostScript": (b"%!ps", b"\xc5\xd0\xd3\xc6"),
    "a JPEG XL image": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
    "a JPEG image": (b"\xff\xd8\xff",),
    "a PNG image": (b"\x89png",),
    "a GIF image": (b"gif8",),
    "a TIFF image": (b"ii*\0", b"mm\0*"),
    "JSON": (b"{", b'["', b"[{"),
    "a ZIP archive": (b"pk\x03\x04",),
    "a gzip file": (b"\x1f\x8b",),
    "a WebM or Matroska file": (b"\x1a\x45\xdf\xa3",),
    "an FLV file": (b"flv\x01",),
    "an ASF file (WMV, WMA)": (b"\x30\x26\xb2\x75",),
    "an Ogg file": (b"oggs",),
    "a FLAC file": (b"flac",),
    "an MP3 file": (b"id3",),
    "an AU file": (b".snd",),
    "a CAF file": (b"caff",),
    "a W64 file": (b"riff\x2e\x91",),
    "an AMR file": (b"#!amr",),
    "a playlist": (b"#extm3u",),
    "base64 of base64, or of a data: URI": (b"data:", b"ivborw0kgg", b"/9j/"),
}
_RIFF = {b"AVI ": "an AVI file", b"WAVE": "a WAV file", b"WEBP": "a WebP image"}
_FORM = {b"AIFF": "an AIFF file", b"AIFC": "an AIFF file"}
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TS_PACKET = 188  # bytes


def kind_of(data: bytes) -> str:
    """What ``data`` seems to be, to follow the word "got"; empty where that is not known."""
    if data[4:8] == b"ftyp":
        return _of_iso(data)
    if data[:4] in (b"RIFF", b"FORM") and data[8:12] in _RIFF | _FORM:
        return (_RIFF | _FORM)[data[8:12]]
    if data[:1] == data[_TS_PACKET : _TS_PACKET + 1] == data[2 * _TS_PACKET : 2 * _TS_PACKET + 1] == b"G":
        return "an MPEG transport stream"
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for name, beginnings in _BEGINNINGS.items() if head.startswith(beginnings)), "")


def _of_iso(data: bytes) -> str:
    brand = data[8:12]
    if brand in _HEIF:
        return "a HEIF image"
    if brand in (b"avif", b"avis"):
        return "an AVIF image"
    # Many writers put it at the end.
    return "an MP4 file" if b"moov" in data else "a truncated MP4 file, without its index,"
