"""200 kB of wrong items for /v1/responses held the event loop for 37 s, while pydantic wrote down 964,001 reasons."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import CoreConfig

from vllm_custom.kernel.fail_fast import stop_at_first_error


class Inner(BaseModel):
    name: str
    type: str = "list"


class Outer(BaseModel):
    items: list[Inner | list[int] | str] = []
    pair: tuple[int, ...] = ()
    numbers: dict[str, int] = {}
    inner: Inner | None = None


@pytest.fixture
def adapter() -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(Outer)
    stop_at_first_error(adapter)
    return adapter


def test_what_is_right_is_taken_as_before(adapter: TypeAdapter[Any]) -> None:
    given = {"items": [{"name": "a"}, [1], "b"], "pair": [1, 2], "numbers": {"a": 1}, "inner": {"name": "c"}}
    assert adapter.validate_python(given) == Outer.model_validate(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": [{}] * 10_000},
        {"items": ["a", *[None] * 10_000]},
        {"items": [["a"] * 10_000]},
        {"pair": ["a"] * 10_000},
        {"numbers": dict.fromkeys(map(str, range(10_000)), "a")},
    ],
)
def test_many_wrong_values_give_few_errors(adapter: TypeAdapter[Any], wrong: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(wrong)
    assert 1 <= caught.value.error_count() < 10


def test_errors_that_are_few_are_all_told(adapter: TypeAdapter[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"pair": ["a"], "numbers": {"x": "a", "y": "b"}})
    assert [error["loc"] for error in caught.value.errors()] == [("pair", 0), ("numbers", "x"), ("numbers", "y")]


def test_what_the_adapter_was_configured_with_still_holds() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(float, config={"allow_inf_nan": False})
    stop_at_first_error(adapter, CoreConfig(allow_inf_nan=False))
    assert adapter.validate_python("1.5") == 1.5
    with pytest.raises(ValidationError, match="finite"):
        adapter.validate_python("nan")
