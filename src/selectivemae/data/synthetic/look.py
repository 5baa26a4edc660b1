"""How a scene looks, whatever it shows: climate, sun, haze, colour balance, sensor.

All classes draw from the same distribution of looks, so colour says little about the class.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.float32]  # (..., 3) RGB, 0..255

_CLIMATES: dict[str, dict[str, list[tuple[int, int, int]]]] = {
    "temperate": {
        "grass": [(104, 122, 72), (118, 128, 84)],
        "crops": [(92, 120, 62), (138, 140, 80), (168, 154, 106), (126, 104, 80), (76, 104, 58), (182, 172, 124)],
        "tree": [(52, 74, 44), (60, 80, 52)],
        "water": [(52, 76, 84), (64, 84, 74), (40, 62, 76)],
        "bare": [(152, 134, 106), (168, 152, 126)],
    },
    "autumn": {
        "grass": [(126, 120, 80), (136, 126, 88)],
        "crops": [(146, 122, 84), (120, 96, 72), (170, 150, 104), (106, 108, 70), (96, 80, 66)],
        "tree": [(96, 80, 50), (112, 86, 50), (70, 72, 46)],
        "water": [(70, 78, 74), (84, 84, 70), (50, 60, 66)],
        "bare": [(140, 120, 98), (156, 138, 116)],
    },
    "arid": {
        "grass": [(136, 134, 90), (146, 142, 98)],
        "crops": [(108, 116, 74), (170, 150, 114), (186, 164, 128), (140, 124, 92), (94, 106, 64)],
        "tree": [(86, 88, 62), (96, 92, 66)],
        "water": [(78, 104, 100), (98, 106, 86), (60, 84, 92)],
        "bare": [(194, 168, 130), (180, 150, 112), (206, 182, 146)],
    },
    "tropical": {
        "grass": [(100, 116, 62), (116, 122, 72)],
        "crops": [(84, 112, 56), (108, 126, 66), (148, 108, 82), (128, 92, 70), (72, 96, 52)],
        "tree": [(44, 68, 40), (50, 76, 42)],
        "water": [(110, 94, 70), (74, 82, 66), (52, 84, 88)],
        "bare": [(154, 116, 92), (146, 106, 84), (172, 136, 108)],
    },
    "cold": {
        "grass": [(130, 130, 116), (148, 146, 134)],
        "crops": [(150, 146, 134), (124, 116, 104), (170, 168, 160), (112, 110, 92), (100, 92, 82)],
        "tree": [(62, 70, 62), (76, 78, 70)],
        "water": [(58, 66, 72), (76, 84, 88), (44, 54, 62)],
        "bare": [(150, 142, 132), (172, 166, 158)],
    },
}
_ROOFS = [(156, 88, 66), (132, 74, 58), (122, 114, 108), (92, 90, 92), (176, 168, 158), (206, 204, 200), (110, 90, 74)]
_METAL = [(196, 196, 194), (168, 172, 176), (222, 220, 216), (132, 146, 160), (150, 132, 116), (110, 116, 118)]
_PAINT = [(226, 226, 224), (190, 192, 194), (48, 50, 54), (84, 88, 94), (142, 44, 40), (54, 72, 116), (160, 152, 136)]


@dataclass(frozen=True)
class Look:
    """One scene's appearance. Colours are RGB 0..255, angles radians on screen (x right, y down)."""

    grass: Colours  # (3,)
    crops: Colours  # (K, 3)
    tree: Colours  # (3,)
    water: Colours  # (3,)
    bare: Colours  # (3,)
    asphalt: Colours  # (3,) roads
    concrete: Colours  # (3,) aprons, pavements
    roofs: Colours  # (K, 3) tile and slate
    metal: Colours  # (K, 3) large roofs, tanks
    paint: Colours  # (K, 3) vehicles
    sun: float  # direction in which shadows fall
    shadow: float  # length of a shadow, in heights of what throws it
    darkness: float  # share of light that a shadow takes away
    haze: float  # share of the image's light that comes from the air
    balance: Colours  # (3,) mean colour that the image is pulled to
    contrast: float  # standard deviation of luminance that the image is pulled to
    noise: float  # standard deviation of sensor noise, grey levels
    blur: float  # standard deviation of the point spread, pixels


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a look; consumes a fixed number of draws, whatever comes out."""
    climate = _CLIMATES[list(_CLIMATES)[int(rng.integers(len(_CLIMATES)))]]

    def one(name: str) -> Colours:
        options = climate[name]
        return np.asarray(options[int(rng.integers(len(options)))] + rng.normal(0, 7, 3), np.float32)

    def several(options: list[tuple[int, int, int]]) -> Colours:
        return np.asarray(options, np.float32) + rng.normal(0, 6, 3).astype(np.float32)

    grey = rng.uniform(72, 150)
    return Look(
        grass=one("grass"),
        crops=several(climate["crops"]),
        tree=one("tree"),
        water=one("water"),
        bare=one("bare"),
        asphalt=np.asarray(grey + rng.normal(0, 2, 3), np.float32),
        concrete=np.asarray(grey + rng.uniform(15, 60) + rng.normal(0, 3, 3), np.float32),
        roofs=several(_ROOFS),
        metal=several(_METAL),
        paint=several(_PAINT),
        sun=float(rng.uniform(0, 2 * np.pi)),
        shadow=float(rng.uniform(0.35, 1.3)),
        darkness=float(rng.uniform(0.42, 0.68)),
        haze=float(rng.beta(1.2, 5.0) * 0.5),
        balance=np.asarray(rng.uniform(78, 150) + rng.normal(0, 6.5, 3), np.float32),
        contrast=float(rng.uniform(24, 46)),
        noise=float(rng.uniform(0.5, 4.0)),
        blur=float(rng.choice([0.0, 0.0, 0.5, 0.8])),
    )
