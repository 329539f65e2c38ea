"""What holds for any media element: bytes come back as they were sent, and anything else is an error of ours."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import outcome
from tools.installer.paths import CHECKOUT
from vllm_custom.media.decoders.image import decode_image
from vllm_custom.media.sources.reference import encoded_bytes, scheme_of

MAX_BYTES = 4096
MAX_PIXELS = 1 << 16
SEEDS = sorted((CHECKOUT / "tests/fuzz/corpus/image").iterdir())
FILES = st.binary(min_size=1, max_size=600).map(lambda body: b"\x89\0" + body)  # no text looks like that


@given(st.binary(max_size=6000))
def test_any_element_is_bytes_within_the_limit_or_refused(element: bytes) -> None:
    encoded, error = outcome(lambda: encoded_bytes(element, "image[0]", MAX_BYTES))
    if error is None:
        assert 0 <= len(encoded) <= MAX_BYTES
    else:
        assert str(error).startswith("image[0]: ")
        assert len(str(error)) < 500


@given(FILES, st.sampled_from(["raw", "base64", "url_safe", "lines", "unpadded", "data_uri", "percent"]))
def test_a_file_comes_back_from_each_form(file: bytes, form: str) -> None:
    encoded = base64.b64encode(file)
    element = {
        "raw": file,
        "base64": encoded,
        "url_safe": base64.urlsafe_b64encode(file),
        "lines": base64.encodebytes(file),
        "unpadded": encoded.rstrip(b"="),
        "data_uri": b"data:image/png;base64," + encoded,
        "percent": b"data:," + b"".join(b"%%%02x" % byte for byte in file),
    }[form]
    assert encoded_bytes(element, "image[0]", MAX_BYTES) == file
    if form != "raw":
        assert scheme_of(element) == ("data" if form in ("data_uri", "percent") else None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
@given(st.data())
def test_an_image_that_was_changed_is_an_image_or_refused(seed: Path, data: st.DataObject) -> None:
    file = bytearray(seed.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(file)))
        file[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    decoded, error = outcome(lambda: decode_image(bytes(file), "image[0]", MAX_PIXELS))
    if error is None:
        assert decoded.mode == "RGB"
        assert decoded.width * decoded.height <= MAX_PIXELS
    else:
        assert str(error).startswith("image[0]: ")
