"""What a media element is: bytes, base64, a data: URI, or a reference that is refused."""

import base64
import contextlib
import io
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tests.support import fakes
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.frame_list import pack_frames, unpack_frames
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
        (b"data:image/png;base64", "the comma and the data are missing"),
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
    assume(not data.startswith(b"data:"))  # a data: URI that was encoded once more is refused as such
    encoded = encode(data)  # type: ignore[operator]
    if encoded:
        assert decode(encoded) == data
    assert decode(b"data:;base64," + encoded) == data


@pytest.mark.parametrize("before", range(4))
def test_percent_escapes_may_lie_across_the_pieces_in_which_they_are_resolved(before: int) -> None:
    uri = b"data:text/plain," + b"x" * before + b"%C3%a4" * 20_000 + b"%4"
    assert encoded_bytes(uri, "image[0]", 1_000_000) == b"x" * before + b"\xc3\xa4" * 20_000 + b"%4"


@pytest.mark.parametrize(
    "uri",
    [
        b"data:image/png; base64,aGk=",
        b"data:image/png;  BASE64 ,aGk=",
        b"data: image/png ;base64,aGk=",
        b"data:image/png;\nbase64,aGk=",
        b"data:;charset=utf-8; base64,aGk=",
        b"data:image/png;base64, aG\tk =",
        b"data:image/png;base64,aGk=#top",
        b"data:image/png;base64,%61%47k%3D",
        b"data:image/png;name=a%20cat.png;base64,aGk",
    ],
)
def test_data_uris_as_browsers_read_them(uri: bytes) -> None:
    assert decode(uri) == b"hi"


def test_the_fragment_of_a_data_uri_is_no_data() -> None:
    assert decode(b"data:text/plain,a%23b#c") == b"a#b"


@pytest.mark.parametrize(
    ("element", "hint"),
    [
        (b"image/png;base64," + BASE64, '"data:" and a media type are missing before ";base64,"'),
        (b"base64," + BASE64, '"data:" and a media type are missing'),
        (b";base64," + BASE64, '"data:" and a media type are missing'),
        (b"data:image/png," + BASE64, '";base64" is missing before the comma'),
        (b"data:image/png,base64," + BASE64, 'a semicolon is missing before "base64"'),
        (b"data:image/png;base64;" + BASE64, 'the comma after "base64" is missing'),
        (b"data:image/png;base64,data:image/png;base64," + BASE64, '"data:" is there twice'),
        (b"data:image/png;base64,{base64_image}", "a placeholder was not replaced"),
        (b"data:image/png;base64,<BASE64 DATA>", "a placeholder was not replaced"),
        (b"{base64_image}", "a placeholder was not replaced"),
        (b"{{ image }}", "a placeholder was not replaced"),
        (b"$IMAGE", "a placeholder was not replaced"),
        (b"$(base64 -w0 cat.png)", "a placeholder was not replaced"),
        (b"data:image/jpeg;base64,/9j/4AAQSkZJRg...", "the rest of the data is missing"),
        (repr(BASE64).encode(), "quotation marks, as Python prints bytes"),
        (b"data:image/png;base64," + repr(BASE64).encode(), "quotation marks, as Python prints bytes"),
        (b'"' + BASE64 + b'"', "quotation marks"),
        (b"/home/me/cat.png", "the name of a file or a URL without https://"),
        (b"C:\\cat.png", "the name of a file"),
        (b"example.com/cat.jpg?width=100", "a URL without https://"),
        (b"localhost:8080/cat", "http:// or https:// is missing"),
        (b'{"url": "https://example.com/cat.png"}', "an object was sent as text"),
        (base64.b64encode(BASE64), "it was encoded as base64 twice"),
        (base64.b64encode(b"data:image/png;base64," + BASE64), "a data: URI was encoded as base64 once more"),
    ],
)
def test_what_guides_print_wrongly_is_refused_with_what_is_missing(element: bytes, hint: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        decode(element)
    assert str(error.value).startswith("image[0]: ")
    assert hint in str(error.value)


def frames_of(element: bytes, limit: int = LIMIT) -> list[bytes]:
    return [bytes(frame) for frame in unpack_frames(encoded_bytes(element, "video[0]", limit))]


def test_frames_in_hand_become_one_file() -> None:
    uri = b"data:video/jpeg;base64,aGk=,%61Gk,"
    assert frames_of(uri[:-1]) == [b"hi", b"hi"]
    assert frames_of(b"DATA: video/JPEG ;base64,aGk") == [b"hi"]
    assert decode(b"data:video/mp4;base64,aGk=") == b"hi"
    with pytest.raises(InvalidRequestError, match=r"video\[0\].frames\[2\]: expected an image as base64, got nothing"):
        frames_of(uri)
    with pytest.raises(InvalidRequestError, match=r"video\[0\].frames\[1\]: expected base64"):
        frames_of(b"data:video/jpeg;base64,aGk=,***")


def test_frames_in_hand_are_bounded() -> None:
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: expected at most 10000 frames in a data: URI"):
        frames_of(b"data:video/jpeg;base64," + b"," * 10_000)
    with pytest.raises(InvalidRequestError, match=r"at most 1500 bytes \(MEDIA_MAX_BYTES of this model\)"):
        frames_of(b"data:video/jpeg;base64," + b",".join([BASE64] * 3), 3 * len(FILE) - 36)


@given(st.binary(max_size=200), st.integers(0, 40))
def test_a_list_of_frames_may_hold_anything(data: bytes, kept: int) -> None:
    with contextlib.suppress(ValueError):
        assert sum(map(len, unpack_frames(pack_frames([b"a", b"b"])[:kept] + data))) <= len(data) + kept
