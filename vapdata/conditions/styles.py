"""Style conditions: the whole clip turns into another medium while its own motion goes on.

Frame 0 is the source's; the style then fades in over the first third or so, and stays: so that the first frame, which an
image-to-video trainer is given, does not tell the style. Exercised by `pytest tests/vapdata/conditions/test_styles.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import UInt8

from vapdata.conditions import style_drawing as drawing
from vapdata.conditions import style_screens as screens
from vapdata.conditions import style_tiles as tiles
from vapdata.conditions.easing import ease
from vapdata.conditions.picture import as_bytes, as_floats, blend
from vapdata.conditions.program import GRAIN, Parameters, Program, Range, Scene
from vapdata.conditions.style_drawing import Look

ARRIVES = (0.25, 0.4)
"""When a style is complete, as a part of the clip."""


def _styled(scene: Scene, at: Parameters, *, prepare: Callable[[Scene, Parameters], Look]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    look = prepare(scene, at)
    for index, time in scene.clock():
        frame = scene.frames[index]
        yield as_bytes(blend(as_floats(frame), look(frame, index), ease(time, 0.0, at["arrives"])))


def _style(name: str, becomes: str, prepare: Callable[[Scene, Parameters], Look], ranges: Mapping[str, Range], **moves: int) -> Program:
    return Program(
        name=name, category="style", sentence=f"The picture turns into {becomes}.", takes="clip",
        ranges={"arrives": ARRIVES, **ranges}, moves=moves, paint=partial(_styled, prepare=prepare),
    )  # fmt: skip


SEED = {"grain": GRAIN}
STYLES = (
    _style("pencil", "a pencil drawing on white paper", drawing.pencil, SEED | {"hatch": (0.8, 1.0)}, saturation=-1, brightness=1),
    _style("charcoal", "a smudged charcoal drawing", drawing.charcoal, SEED | {"strength": (0.9, 1.1)}, saturation=-1, colours=-1),
    _style("engraving", "an old engraving of black lines on cream paper", drawing.engraving, {"lines": (22, 25)}, detail=1, contrast=1),
    _style("oil_painting", "an oil painting with thick brush strokes", drawing.oil, SEED | {"brush": (0.035, 0.045), "relief": (45, 60)}, saturation=1),
    _style("watercolour", "a pale watercolour painting", drawing.watercolour, SEED | {"pooling": (0.8, 1.2)}, brightness=1, detail=1),
    _style("cartoon", "a cartoon with flat colours and black outlines", drawing.cartoon, {"levels": (4, 5)}, saturation=1, colours=-1),
    _style("pixel_art", "pixel art of large square pixels", tiles.pixel_art, {"cells": (20, 24)}, colours=-1, flatness=1),
    _style("halftone", "coloured halftone dots as in newsprint", tiles.halftone, {"dots": (17, 19)}, detail=1, contrast=1),
    _style("mosaic", "a mosaic of square ceramic tiles", tiles.mosaic, SEED | {"tiles": (13, 15)}, detail=1, dark=-1),
    _style("low_poly", "a low-poly model of flat triangles", tiles.low_poly, SEED | {"cells": (8, 10)}, flatness=1, dark=-1),
    _style("stained_glass", "a stained-glass window", tiles.stained_glass, SEED | {"cells": (8, 10)}, detail=1, dark=1),
    _style("cross_stitch", "a cross-stitch embroidery on linen", tiles.cross_stitch, {"stitches": (13, 15)}, detail=1, grid=1),
    _style("knitted", "a piece of knitted wool", tiles.knitted, {"stitches": (12, 14)}, grid=1, brightness=-1),
    _style("thermal", "the false colours of a thermal camera", screens.thermal, {"contrast": (1.0, 1.2)}, saturation=1, detail=-1),
    _style("night_vision", "the green picture of a night-vision device", screens.night_vision, SEED, green=1, flicker=1),
    _style("vhs", "a worn VHS tape", screens.vhs, SEED | {"band": (0, 1)}, flicker=1, detail=1),
    _style("sepia_film", "a scratched old sepia film", screens.sepia_film, SEED, warmth=1, flicker=1),
    _style("noir", "a high-contrast black-and-white film noir", screens.noir, SEED | {"contrast": (1.7, 2.1)}, saturation=-1, contrast=1),
    _style("pop_art", "pop art in violet, pink, orange and yellow", screens.pop_art, {"lift": (1.0, 1.1)}, saturation=1, colours=-1),
    _style("neon_edges", "glowing neon outlines in the dark", screens.neon_edges, {"hue": (0, 0.25)}, brightness=-1, dark=1),
    _style("blueprint", "a blueprint with white lines on blue", screens.blueprint, {"squares": (8, 10)}, warmth=-1, saturation=1),
    _style("negative", "a photographic negative", screens.negative, {"contrast": (1.0, 1.1)}, inversion=1),
    _style("emboss", "a grey embossed relief", screens.emboss, {"depth": (0.9, 1.2)}, saturation=-1, inversion=1),
)
"""In the order of a contact sheet."""
