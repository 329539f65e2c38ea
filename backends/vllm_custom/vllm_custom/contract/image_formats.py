"""Kinds of image files, by Pillow's names. Imports nothing: the processes that decode read it too."""

from __future__ import annotations

# What browsers show, and TIFF.
SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# What vLLM's own reader opens; Pillow knows more, some of them through external programs (EPS).
KNOWN_FORMATS = (
    *SAFE_FORMATS,
    "BLP",
    "CUR",
    "DCX",
    "DDS",
    "DIB",
    "FITS",
    "FLI",
    "FTEX",
    "GBR",
    "ICNS",
    "ICO",
    "IM",
    "IMT",
    "IPTC",
    "JPEG2000",
    "MCIDAS",
    "MSP",
    "PCD",
    "PCX",
    "PIXAR",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "SPIDER",
    "SUN",
    "TGA",
    "XBM",
    "XPM",
    "XVTHUMB",
)


def parse_format(text: str) -> str:
    """The name of a kind of image.

    Raises:
        ValueError: there is none of this name.
    """
    name = text.upper()
    if name not in KNOWN_FORMATS:
        raise ValueError(text)
    return name
