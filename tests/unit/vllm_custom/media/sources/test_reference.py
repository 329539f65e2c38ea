"""What a media element is: bytes, base64, a data: URI, or a reference that is refused."""

import base64
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import fakes
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.sources.reference import encoded_bytes

FILE = bytes(range(256)) * 2
BASE64 = base64.b64encode(FILE)
URLSAFE = base64.urlsafe_b64encode(FILE)
LIMIT = 10_000


def decode(element: bytes, limit: int = LIMIT) -> bytes:
    return encoded_bytes(element, "image[0]", limit)


@pytest.mark.parametrize(
    "element",
    [
        BASE64,
        BASE64.rstrip(b"="),
        BASE64 + b"\n",
        b"  " + BASE64,
        base64.encodebytes(FILE),
        base64.encodebytes(FILE).replace(b"\n", b"\r\n"),
        URLSAFE,
        URLSAFE.rstrip(b"="),
    ],
    ids=["plain", "unpadded", "newline", "spaces", "lines", "crlf", "urlsafe", "urlsafe-unpadded"],
)
def test_base64_of_every_kind(element: bytes) -> None:
    assert decode(element) == FILE
    assert decode(b"data:image/png;base64," + element) == FILE


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (b"data:image/png;base64,aGk=", b"hi"),
        (b"data:;base64,aGk=", b"hi"),
        (b"data:image/png;charset=utf-8;base64,aGk=", b"hi"),
        (b"DATA:IMAGE/PNG;BASE64,aGk=", b"hi"),
        (b"\n data:image/png;base64,aGk%3D", b"hi"),
        (b"data:image/svg+xml,%3Csvg/%3E", b"<svg/>"),
        (b"data:,plain", b"plain"),
        (b"data:,a,b", b"a,b"),
        (b"data:,", b""),
        (b"data:text/plain;base64x,hi", b"hi"),
    ],
)
def test_data_uris_as_rfc_2397_has_them(uri: bytes, expected: bytes) -> None:
    assert decode(uri) == expected


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_raw_files_pass_as_they_are(image_format: str, mode: str) -> None:
    """A small grey TIFF is ASCII throughout, and still no base64."""
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, image_format)
    assert decode(buffer.getvalue()) == buffer.getvalue()


@pytest.mark.parametrize(
    "reference",
    [
        b"http://example.com/a.png",
        b"HTTPS://example.com/a.png",
        b"  https://example.com/a.png",
        b"ftp://example.com/a.png",
        b"file:///etc/passwd",
        b"file:/etc/passwd",
        b"FILE:etc/passwd",
        b"gopher://127.0.0.1:70/_x",
        b"jar:file:///a!/b",
        b"s3://bucket/key",
        b"javascript:alert(1)",
        b"view-source:http://example.com",
        b"vllm-custom-media:0123456789abcdef",
        b"blob:https://example.com/uuid",
    ],
)
def test_references_of_every_scheme_are_refused(reference: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"image\[0\]: [a-z0-9+.-]+: references are not allowed"):
        decode(reference)


@pytest.mark.parametrize("element", [b"", b" ", b"\r\n\t"])
def test_empty_elements_are_refused(element: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"image\[0\]: expected base64, .* got an empty element"):
        decode(element)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (b"not base64!", "it is not valid base64"),
        (b"aGk", None),
        (b"aGkx=aGkx", "it is not valid base64"),
        (b"a", "it is not valid base64"),
        (b"//example.com/a.png", "it is not valid base64"),
        (b"../../etc/passwd", "it is not valid base64"),
        (b"data:image/png;base64", "RFC 2397"),
        (b"data:image/png;base64,***", "it is not valid base64"),
        (b"data:image/png;base64,aGk%3", "it is not valid base64"),
        ("data:image/png;base64,å".encode(), None),
    ],
)
def test_damaged_text_is_refused_with_the_reason(element: bytes, message: str | None) -> None:
    if message is None:
        assert decode(element)
        return
    with pytest.raises(InvalidRequestError, match=message) as error:
        decode(element)
    assert str(error.value).startswith("image[0]: expected ")


@pytest.mark.parametrize("element", [FILE, BASE64, b"data:;base64," + BASE64, b"data:," + b"%41" * len(FILE)])
def test_size_is_that_of_the_decoded_file(element: bytes) -> None:
    assert len(decode(element, len(FILE))) == len(FILE)
    with pytest.raises(InvalidRequestError, match=r"at most 511 bytes \(MEDIA_MAX_BYTES of this model\), got 512"):
        decode(element, len(FILE) - 1)


def test_long_base64_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"image\[0\]: expected at most .*MEDIA_MAX_BYTES.* got 100000 characters of base64"
    ):
        decode(b"!" * 100_000, 1000)


@pytest.mark.parametrize("uri", [b"data:,", b"data:;base64,"])
def test_millions_of_percent_escapes_are_refused_at_once(uri: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(
        InvalidRequestError, match=r"image\[0\]: expected a data: URI of at most 1000000 percent escapes"
    ):
        decode(uri + b"%" * 10_000_000, 100_000_000)
    assert time.perf_counter() - began < 20  # one by one in Python they take minutes


def test_messages_stay_short() -> None:
    with pytest.raises(InvalidRequestError) as error:
        decode(b"!" * (LIMIT * 2))
    assert len(str(error.value)) < 300


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_give_bytes_within_the_limit_or_our_error(element: bytes) -> None:
    for candidate in (element, b"data:" + element, b"data:image/png;base64," + element):
        made, error = fakes.outcome(lambda candidate=candidate: decode(candidate, 50))
        assert str(error).startswith("image[0]: ") if error else len(made) <= 50


@given(st.binary(max_size=100), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes]))
def test_what_base64_wrote_is_read_back(data: bytes, encode: object) -> None:
    encoded = encode(data)  # type: ignore[operator]
    if encoded:
        assert decode(encoded) == data
    assert decode(b"data:;base64," + encoded) == data


@pytest.mark.parametrize("before", range(4))
def test_percent_escapes_may_lie_across_the_pieces_in_which_they_are_resolved(before: int) -> None:
    uri = b"data:text/plain," + b"x" * before + b"%C3%a4" * 20_000 + b"%4"
    assert encoded_bytes(uri, "image[0]", 1_000_000) == b"x" * before + b"\xc3\xa4" * 20_000 + b"%4"
