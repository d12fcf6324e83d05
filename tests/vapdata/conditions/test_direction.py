"""Made clips that move as their condition's others do score high; those that stay or go elsewhere do not."""

import numpy as np
import pytest

from vapdata.conditions.direction import agreement


def test_scores_worked_by_hand() -> None:
    sources = np.zeros((3, 2), np.float32)
    made = np.array([[1, 0], [2, 0], [0, 3]], np.float32)  # two to the right, one up
    # the first: the others' sum is (1, 1), 45 degrees off; the third: (2, 0), at a right angle
    assert agreement(made, sources) == pytest.approx([100 * 2**-0.5, 100 * 2**-0.5, 0.0])


def test_what_the_pictures_show_and_how_far_they_move_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    sources, move = rng.normal(size=(6, 32)).astype(np.float32), rng.normal(size=32).astype(np.float32)
    far = rng.uniform(0.5, 2.0, (6, 1)).astype(np.float32)
    assert agreement(sources + far * move, sources) == pytest.approx([100.0] * 6, abs=1e-3)


def test_one_that_stays_or_goes_the_other_way_scores_zero_and_one_alone_is_not_scored() -> None:
    sources, move = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32), np.ones(16, np.float32)
    made = sources + move
    made[0], made[1] = sources[0], sources[1] - move
    scores = agreement(made, sources)
    assert scores[0] == 0 and scores[1] == 0 and scores[2:] == pytest.approx([100.0] * 3, abs=1e-3)
    assert np.isnan(agreement(made[:1], sources[:1])).all()
