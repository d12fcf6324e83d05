"""Conditions can be told from one another by plain numbers: a nearest-centroid classifier recognises held-out renders.

Centroids come from renders of some clips, with other seeds; it is asked about renders of clips that it has not seen. The
confusion is printed (`pytest -s`).
"""

from collections import Counter

import numpy as np
import pytest

from vapdata.conditions.procedural import PROGRAMS
from vapdata.conditions.statistics import clip_statistics

CLIPS = 6
FOLDS = 3
FRAMES = 9


def _rows(category, sources):
    rows, names, places = [], [], []
    for program in (each for each in PROGRAMS.values() if each.category == category):
        for place, (frames, subject) in enumerate(sources):
            shown = program.render(frames[:FRAMES], subject, program.draw(place), FRAMES)
            source = frames[:FRAMES] if program.takes == "clip" else np.repeat(frames[:1], FRAMES, 0)
            row = clip_statistics(source, shown, subject)
            rows.append(np.sign(row) * np.log1p(np.abs(row)))
            names.append(program.name)
            places.append(place)
    return np.array(rows), np.array(names), np.array(places)


def _nearest(rows, names, asked):
    """The name of the nearest centroid for each asked row; distances in standard deviations within a condition, at most 3 each."""
    each = sorted(set(names))
    centroids = np.array([rows[~asked & (names == name)].mean(0) for name in each])
    within = np.sqrt(np.mean([rows[~asked & (names == name)].var(0) for name in each], axis=0)) + 1e-3
    far = np.minimum(((rows[asked][:, None] - centroids) / within) ** 2, 9).sum(-1)
    return np.array(each)[far.argmin(1)]


@pytest.mark.slow
@pytest.mark.parametrize("category", ["camera", "style", "motion", "concept"])
def test_held_out_renders_are_recognised_far_above_chance(category, filmed):
    rows, names, places = _rows(category, filmed(CLIPS))
    answers = np.empty_like(names)
    for fold in range(FOLDS):
        asked = places % FOLDS == fold
        answers[asked] = _nearest(rows, names, asked)
    right, count = answers == names, len(set(names))
    confused = Counter((str(true), str(said)) for true, said in zip(names, answers, strict=True) if true != said)
    print(f"\n{category}: {right.mean():.0%} of {len(names)} held-out renders of {count} conditions; true, said, times:", *confused.most_common(), sep="\n  ")
    assert right.mean() > 12 / count, "chance is 1 / count"
    assert min(right[names == name].mean() for name in set(names)) >= 0.5
    assert max(confused.values(), default=0) < CLIPS / 2
