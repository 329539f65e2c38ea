"""The colours that the model has names for."""

from __future__ import annotations

from random import Random

RGB = tuple[int, int, int]

COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (220, 30, 35), (200, 20, 20), (237, 28, 36), (230, 50, 45)),
    "green": ((0, 128, 0), (0, 200, 0), (0, 255, 0), (30, 160, 60), (34, 139, 34), (60, 180, 75)),
    "blue": ((0, 0, 255), (30, 60, 200), (25, 90, 220), (20, 40, 160), (50, 120, 230)),
    "yellow": ((255, 255, 0), (250, 225, 30), (255, 235, 60), (240, 220, 0), (255, 215, 0)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 30), (255, 127, 14), (240, 120, 10)),
    "purple": ((128, 0, 128), (150, 50, 180), (130, 40, 160), (160, 32, 240), (102, 51, 153)),
    "black": ((0, 0, 0), (15, 15, 15), (30, 30, 33)),
    "white": ((255, 255, 255), (247, 247, 247), (250, 250, 242)),
}


def near(rng: Random, colour: RGB, spread: int) -> RGB:
    """A colour whose channels differ from those of `colour` by `spread` at most."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-spread, spread))) for channel in colour)
    return red, green, blue
