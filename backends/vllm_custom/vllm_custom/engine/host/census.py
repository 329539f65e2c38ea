"""How many fronts an engine has, and how many of them were lost and have come again."""

from __future__ import annotations

from vllm_custom.engine.host.messages import Fronts


class Census:
    """For one engine. What has been told is not told again."""

    def __init__(self) -> None:
        self._missing = 0
        self._lost = 0
        self._replaced = 0

    def came(self) -> None:
        """A front is attached; where one is missing, it takes its place."""
        if self._missing:
            self._missing -= 1
            self._replaced += 1

    def lost(self) -> None:
        """A front has ended as it should not have."""
        self._missing += 1
        self._lost += 1

    def told(self, attached: int) -> Fronts:
        """The news for one of ``attached`` fronts, who counts them for all."""
        news = Fronts(attached, self._lost, self._replaced)
        self._lost = self._replaced = 0
        return news
