"""Errors: each has a code of Triton's, and the package raises no others."""

import ast
import pickle
from pathlib import Path

import pytest

import vllm_custom
from tests.support import fakes
from vllm_custom import errors

PACKAGE = Path(vllm_custom.__file__).parent
TRITON_CODES = {
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
}
OURS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
# Functions that make one of our errors; each returns a BackendError.
MAKERS = {
    "invalid",
    "lacks",
    "not_allowed",
    "_bad_value",
    "_differs",
    "_refused",
    "_cut_off",
    "_too_long",
    "too_long",
    "_too_large",
    "_larger_than_measured",
    "_ended",
    "self._too_many",
    "self._full",
    "self._error",
    "self._empty",
    "_no_image",
    "damaged",
    "error",
}
# Never reach a client or an operator as they are: caught by pydantic, by contract/settings.py, by the fetcher or the
# decoders' pool itself, by Triton's stub, what a mapping has to raise, a broken patch file, an unknown base class, and
# defects, which are internal errors to clients.
INTERNAL = {
    ("contract/config/limits.py", "ValueError"),
    ("contract/config/media.py", "ValueError"),
    ("contract/config/model.py", "ValueError"),
    ("contract/image_formats.py", "ValueError"),
    ("engine/host/finding.py", "FileNotFoundError"),
    ("engine/vllm/openai.py", "KeyError"),
    ("engine/vllm/bodies.py", "_explained"),
    ("engine/vllm/long_answers.py", "RuntimeError"),
    ("engine/vllm/constraints/grammars.py", "NoTextError"),
    ("engine/vllm/constraints/grammars.py", "SlowMaskError"),
    ("engine/vllm/constraints/client.py", "OSError"),
    ("engine/vllm/constraints/client.py", "RefusedConstraintError"),
    ("contract/hosts.py", "ValueError"),
    ("runtime/async_utils.py", "RuntimeError"),
    ("media/decoders/confinement.py", "OSError"),
    ("media/decoders/frame_list.py", "ValueError"),
    ("media/decoders/image.py", "ValueError"),
    ("media/decoders/job.py", "ValueError"),
    ("media/workers/pool.py", "ValueError"),
    ("media/sources/bodies.py", "FetchError"),
    ("media/sources/bodies.py", "zlib.error"),
    ("media/sources/fetch.py", "FetchError"),
    ("media/sources/fetch.py", "TooLargeError"),
    ("serving/http.py", "RuntimeError"),
    ("serving/life.py", "RuntimeError"),
    ("triton/elements.py", "ValueError"),
    ("kernel/fail_fast.py", "ValidationError.from_exception_data"),
    ("kernel/json_objects.py", "ValueError"),
    ("base_backend/patches.py", "ImportError"),
    ("base_backend/adapter.py", "AttributeError"),
    ("engine/host/guard.py", "FileNotFoundError"),
    ("engine/host/guard.py", "ImportError"),
    ("kernel/orphans.py", "ImportError"),
    ("kernel/series.py", "PermissionError"),
    ("engine/vllm/engine_limits.py", "_refusal"),
    ("engine/vllm/host/core.py", "CoreError"),
    ("engine/vllm/older/names.py", "ImportError"),
    ("engine/vllm/older/structured_outputs.py", "ImportError"),
    ("engine/vllm/requests.py", "_engine_died"),
    ("kernel/nodes.py", "nodes.explained"),
}


def _raised() -> list[tuple[str, str]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.unparse(node.exc.func))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_error_has_a_code_of_tritons(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.BackendError)
    assert error.triton_code in TRITON_CODES
    assert hasattr(fakes.TritonError, error.triton_code)


def test_the_package_raises_its_own_errors_only() -> None:
    foreign = {found for found in _raised() if found[1] not in OURS | MAKERS}
    assert foreign == INTERNAL


def test_every_raise_in_a_handler_keeps_its_cause() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(handler, ast.ExceptHandler):
                for node in ast.walk(handler):
                    if isinstance(node, ast.Raise) and node.exc is not None:
                        assert node.cause is not None, f"{path.name}:{node.lineno} raises without from"


def test_the_common_form_names_field_value_and_what_is_allowed() -> None:
    error = errors.invalid("image[0]", "x", "base64")
    assert isinstance(error, errors.InvalidRequestError)
    assert str(error) == "image[0]: expected base64, got 'x'"
    assert error.param == "image[0]"


@pytest.mark.parametrize(
    ("error", "param"),
    [
        (errors.invalid("a field", 1, "2"), "a field"),
        (errors.NotFoundError("lora_name: no adapter 'x'"), "lora_name"),
        (errors.InvalidRequestError("too many rows: 3"), None),
        (errors.InvalidRequestError("stream takes one row", param="stream"), "stream"),
        (errors.invalid("x" * 1000, 1, "2"), "x" * 107 + "... (1000 characters)"),
        (errors.BackendError(), None),
    ],
)
def test_the_field_is_there_for_programs(error: errors.BackendError, param: str | None) -> None:
    assert error.param == param


@pytest.mark.parametrize("error", [errors.invalid("n", 0, "1"), errors.MediaLimitError("image: large", "pixels")])
def test_an_error_comes_out_of_another_process_as_it_was(error: errors.BackendError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def _raise_wrapped() -> None:
    try:
        try:
            raise ValueError("absolute aspect ratio must be smaller than 200, got 218.6")
        except ValueError as error:
            data = "{'images': [<PIL.Image.Image image mode=RGB size=1093x5 at 0x7FC4D0A1B2C3>]}"
            raise ValueError(f"Failed to apply Qwen2_5_VLProcessor on data={data} with kwargs={{}}") from error
    except ValueError as error:
        raise RuntimeError from error


def test_the_cause_is_told_and_not_the_wrapper() -> None:
    """An image of 1093 x 5 was refused with the repr of the image, and without the reason."""
    with pytest.raises(RuntimeError) as caught:
        _raise_wrapped()
    assert errors.root_cause(caught.value) == "absolute aspect ratio must be smaller than 200, got 218.6"


def test_a_message_that_says_what_is_wrong_is_kept() -> None:
    error = ValueError("unknown modality 'smell'")
    error.__context__ = KeyError("smell")
    assert errors.root_cause(error) == "unknown modality 'smell'"


def test_only_a_wrapper_is_still_told_without_addresses_and_paths() -> None:
    error = ValueError("cannot read <_io.BytesIO object at 0x7f5a3c0b1d50> of /models/vl/1/weights")
    assert errors.root_cause(error) == "cannot read <object> of ..."
    assert errors.root_cause(KeyError()) == "KeyError"


def test_errors_that_cause_each_other_end() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert errors.root_cause(first) == "ValueError"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("short", "'short'"),
        (b"short", "b'short'"),
        (None, "None"),
        ("x" * 81, f"{'x' * 40!r}... (81 characters)"),
        (b"\0" * 10_000_000, f"{bytes(40)!r}... (10000000 bytes)"),
        (list(range(100)), f"{str(list(range(100)))[:80]}..."),
    ],
)
def test_values_are_shortened(value: object, expected: str) -> None:
    assert errors.shorten(value) == expected


@pytest.mark.parametrize(("names", "expected"), [(["b", "a"], "a, b"), ([], "(none)")])
def test_names_are_listed_in_order(names: list[str], expected: str) -> None:
    assert errors.listing(names) == expected


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, b"x" * 10**7, ["a"] * 10**6, {str(i): i for i in range(10**5)}, 10**10**5, [[["x" * 10**6]]]],
    ids=["text", "bytes", "list", "object", "integer", "nested"],
)
def test_a_large_value_is_shown_without_being_written_out(value: object) -> None:
    assert len(errors.shorten(value)) < 150


@pytest.mark.parametrize(
    ("name", "hint"),
    [("temprature", "; did you mean temperature?"), ("zzz", ""), ("temperature" * 100_000, "")],
    ids=["close", "far", "long"],
)
def test_suggestions_are_for_names_of_ordinary_length(name: str, hint: str) -> None:
    """Comparing takes time with the square of the length: a name of 1 MB stopped everybody."""
    assert errors.suggestion(name, ["temperature", "top_p"]) == hint
