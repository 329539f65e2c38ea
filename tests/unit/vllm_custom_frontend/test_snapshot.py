"""Which endpoints a name means."""

from types import SimpleNamespace
from typing import Any

from vllm_custom_frontend.endpoint import Endpoint
from vllm_custom_frontend.snapshot import Snapshot
from vllm_custom_frontend.triton import ServedModel


def endpoint(server: str, model: str, *adapters: str) -> Endpoint:
    triton: Any = SimpleNamespace(address=server, open_calls=0, last_call=0.0)
    cards = [{"id": name, "of": f"{model} on {server}"} for name in (model, *adapters)]
    return Endpoint(triton, ServedModel(model, batched=False), cards=cards)


def means(snapshot: Snapshot, name: str) -> list[str]:
    return [str(found) for found in snapshot.endpoints(name)]


def test_a_name_means_the_same_thing_on_all_servers() -> None:
    snapshot = Snapshot.of([endpoint("a", "shapes", "zh"), endpoint("b", "shapes", "zh"), endpoint("b", "other")])
    assert means(snapshot, "shapes") == means(snapshot, "zh") == ["shapes on a", "shapes on b"]
    assert means(snapshot, "other") == ["other on b"]
    assert means(snapshot, "nobody") == []
    assert snapshot.names == ["shapes", "other", "zh"]
    assert not snapshot.ambiguous


def test_a_model_is_not_hidden_by_an_adapter_of_its_name() -> None:
    """On whichever server either is, and in whichever order they are found."""
    for found in (
        [endpoint("a", "shapes", "zh"), endpoint("a", "zh")],
        [endpoint("b", "zh"), endpoint("a", "shapes", "zh")],
    ):
        snapshot = Snapshot.of(found)
        assert [one.model.name for one in snapshot.endpoints("zh")] == ["zh"]
        assert snapshot.cards()["zh"]["of"].startswith("zh on")
        assert snapshot.ambiguous == {"zh": "the model, not the adapter of the model shapes"}


def test_requests_for_an_adapter_do_not_alternate_between_two_models() -> None:
    snapshot = Snapshot.of([endpoint("a", "m", "zh"), endpoint("a", "n", "zh"), endpoint("b", "m", "zh")])
    assert means(snapshot, "zh") == ["m on a", "m on b"]
    assert snapshot.ambiguous == {"zh": "the adapter of the model m, not that of n"}


def test_what_is_broken_is_not_listed_and_keeps_its_name() -> None:
    broken, well = endpoint("a", "m", "zh"), endpoint("b", "n")
    broken.health.lost()
    snapshot = Snapshot.of([broken, well])
    assert list(snapshot.cards()) == ["n"]
    assert means(snapshot, "m") == ["m on a"]
    assert snapshot.ready
    well.health.lost()
    assert not snapshot.ready
