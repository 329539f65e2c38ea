"""Which names requests may use, and the endpoints that each of them means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vllm_custom_frontend.endpoint import Card, Endpoint


@dataclass(frozen=True)
class Snapshot:
    """What all servers together have at one time.

    Attributes:
        models: the endpoints of each model.
        adapters: the endpoints of each LoRA adapter, all of one model.
        ambiguous: names that mean more than one thing: what they are taken for.
    """

    models: Mapping[str, Sequence[Endpoint]] = field(default_factory=dict)
    adapters: Mapping[str, Sequence[Endpoint]] = field(default_factory=dict)
    ambiguous: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Snapshot:
        """A model's own name wins over an adapter's, and of two models that have an adapter the first."""
        models: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            models.setdefault(endpoint.model.name, []).append(endpoint)
        adapters: dict[str, list[Endpoint]] = {}
        ambiguous: dict[str, str] = {}
        for name, endpoint in _adapters(models):
            if name in models:
                ambiguous[name] = f"the model, not the adapter of the model {endpoint.model.name}"
                continue
            known = adapters.setdefault(name, [])
            if known and known[0].model.name != endpoint.model.name:
                ambiguous[name] = f"the adapter of the model {known[0].model.name}, not that of {endpoint.model.name}"
                continue
            known.append(endpoint)
        return cls(models, adapters, ambiguous)

    @property
    def names(self) -> list[str]:
        """All names, the models' first."""
        return [*self.models, *self.adapters]

    def endpoints(self, name: str | None) -> Sequence[Endpoint]:
        """Those that ``name`` means; none where it means nothing."""
        if name is None:
            return ()
        return self.models.get(name) or self.adapters.get(name, ())

    def cards(self) -> dict[str, Card]:
        """OpenAI's cards of what can be used now, by name."""
        names = {**self.models, **self.adapters}
        return {name: card for name, found in names.items() if (card := _card(name, found)) is not None}

    @property
    def ready(self) -> bool:
        """Whether some endpoint is fit for requests."""
        return any(not endpoint.health.broken for found in self.models.values() for endpoint in found)

    def is_ready(self, name: str) -> bool:
        """Whether an endpoint of this model, or of this adapter, is fit for requests."""
        return any(not endpoint.health.broken for endpoint in self.endpoints(name))


def _adapters(models: Mapping[str, Sequence[Endpoint]]) -> Iterable[tuple[str, Endpoint]]:
    for model, endpoints in models.items():
        for endpoint in endpoints:
            for name in dict.fromkeys(str(card["id"]) for card in endpoint.cards):
                if name != model:
                    yield name, endpoint


def _card(name: str, endpoints: Iterable[Endpoint]) -> Card | None:
    usable = (endpoint for endpoint in endpoints if not endpoint.health.broken)
    return next((card for endpoint in usable for card in endpoint.cards if card["id"] == name), None)
