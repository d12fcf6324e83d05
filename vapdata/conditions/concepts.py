"""Concept conditions: what befalls a subject, or the scene as a whole.

The painters stand in `concept_vanishing.py`, `concept_matter.py` and `concept_scene.py`; here are their names, their
sentences and the ranges that keep one concept one look. Exercised by `pytest tests/vapdata/conditions/test_concepts.py`.
"""

from collections.abc import Mapping

from vapdata.conditions import concept_matter as matter
from vapdata.conditions import concept_scene as whole
from vapdata.conditions import concept_vanishing as vanishing
from vapdata.conditions.program import GRAIN, Painter, Program, Range

SEED = {"grain": GRAIN}
DONE = {"done": (0.75, 0.9)}
"""When a change of matter is complete, as a part of the clip."""


def _subject(name: str, sentence: str, paint: Painter, ranges: Mapping[str, Range]) -> Program:
    return Program(name=name, category="concept", sentence=sentence, takes="frame", needs_subject=True, ranges=ranges, paint=paint)


def _scene(name: str, sentence: str, paint: Painter, ranges: Mapping[str, Range]) -> Program:
    return Program(name=name, category="concept", sentence=sentence, takes="clip", ranges=ranges, paint=paint)


CONCEPTS = (
    _subject("melt", "The subject melts and flows down into a puddle.", vanishing.melt, SEED | {"sinks": (0.7, 0.8)}),
    _subject("crumble", "The subject crumbles from the top into a heap of small bits.", vanishing.crumble, SEED | {"bits": (19, 23)}),
    _subject("shatter", "The subject cracks like glass and its shards fall down.", vanishing.shatter, SEED | {"shards": (8, 10), "when": (0.28, 0.38)}),
    _subject("explode", "The subject explodes in a flash and its pieces fly in all directions.", vanishing.explode, SEED | {"bits": (13, 16), "when": (0.25, 0.35)}),
    _subject("burn_away", "The subject burns away along a glowing front until nothing is left.", vanishing.burn_away, SEED | {"tongues": (5, 7)}),
    _subject("pixel_dissolve", "The subject turns into coarse pixels that go out one by one.", vanishing.pixel_dissolve, SEED | {"cells": (20, 24)}),
    _subject("dust_away", "The subject turns to dust that the wind carries away to the right.", vanishing.dust_away, SEED),
    _subject("turn_to_smoke", "The subject turns to grey smoke that rises and thins out.", vanishing.turn_to_smoke, SEED | {"curls": (3.5, 5)}),
    _subject("disappear", "The subject slowly fades and disappears.", vanishing.disappear, {"when": (0.2, 0.35)}),
    _subject("vortex", "The subject is sucked into a whirling vortex in its own middle.", vanishing.vortex, {"turns": (1.2, 1.6)}),
    _subject("duplicate", "The subject multiplies: copies of it step out to both sides.", vanishing.duplicate, {"apart": (0.75, 0.95)}),
    _subject("turn_to_gold", "The subject turns to polished gold from the top down.", matter.turn_to_gold, SEED | DONE),
    _subject("petrify", "The subject turns to grey stone from its foot upwards.", matter.petrify, SEED | DONE),
    _subject("freeze", "The subject freezes to blue ice.", matter.freeze, SEED | DONE),
    _subject("turn_to_shadow", "The subject darkens into a black silhouette.", matter.turn_to_shadow, DONE),
    _subject("hologram", "The subject turns into a flickering cyan hologram.", matter.hologram, SEED | {"done": (0.35, 0.5)}),
    _subject("engulf_in_flames", "The subject is engulfed in flames.", matter.engulf_in_flames, SEED | {"tongues": (6, 8)}),
    _subject("electrify", "Lightning crackles over the subject, which flashes blue.", matter.electrify, SEED),
    _scene("glitch", "The picture breaks up in digital glitches: slices slip and colours part.", whole.glitch, SEED | {"strength": (0.9, 1.1)}),
    _scene("flood", "Water rises until the scene is flooded.", whole.flood, {"level": (0.75, 0.9)}),
    _scene("snow_in", "Snow falls and piles up until the scene is snowed in.", whole.snow_in, SEED | {"flakes": (0.8, 1.1), "depth": (0.5, 0.62)}),
    _scene("rain", "It grows dark and heavy rain pours down.", whole.rain, SEED | {"drops": (0.9, 1.1)}),
    _scene("fog_in", "Fog drifts in and hides the scene.", whole.fog_in, SEED | {"thick": (0.95, 1.1)}),
    _scene("nightfall", "Night falls over the scene.", whole.nightfall, SEED | {"moon": (0.9, 1.1)}),
    _scene("ripple", "Rings spread over the picture as if it were a water surface.", whole.ripple, {"length": (0.2, 0.26)}),
    _scene("lightning_storm", "A thunderstorm: it darkens and flashes of lightning light up the scene.", whole.lightning_storm, SEED | {"glare": (0.9, 1.0)}),
    _scene("kaleidoscope", "The picture folds into a turning kaleidoscope.", whole.kaleidoscope, {"wedges": (3.6, 4.4)}),
)  # fmt: skip
"""In the order of a contact sheet."""
