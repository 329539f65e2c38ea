"""Errors: each has a code of Triton's, and the package raises no others."""

import ast
from pathlib import Path

import fakes
import pytest

import vllm_custom
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
    "not_allowed",
    "_bad_value",
    "_refused",
    "_cut_off",
    "_too_long",
    "_too_large",
    "_larger_than_measured",
    "_ended",
    "self._too_many",
}
# Never reach a client or an operator as they are: caught by pydantic, by config.py, by the fetcher or the decoders'
# pool itself, what a mapping has to raise, a broken patch file, and an unknown base class.
INTERNAL = {
    ("contract/table.py", "ValueError"),
    ("openai/models.py", "KeyError"),
    ("hosts.py", "ValueError"),
    ("decoders/confinement.py", "OSError"),
    ("decoders/job.py", "ValueError"),
    ("media/workers/pool.py", "ValueError"),
    ("media/sources/fetch.py", "FetchError"),
    ("media/sources/fetch.py", "TooLargeError"),
    ("request/parameters.py", "ValueError"),
    ("upstream/patches.py", "ImportError"),
    ("upstream/adapter.py", "AttributeError"),
}


def _raised() -> list[tuple[str, str]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.unparse(node.exc.func))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        # A program of its own: its errors are HTTP answers (frontend/errors.py).
        if "frontend" not in path.relative_to(PACKAGE).parts
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
