"""Matrices move known points to known places; layers move with their masks."""

import numpy as np
import pytest

from vapdata.conditions.picture import grid
from vapdata.conditions.warps import about, layer, layer_from, seen_from, shown


def _at(matrix, x, y):
    return (matrix @ [x, y, 1]).tolist()


def test_a_matrix_about_a_middle_keeps_it():
    assert _at(about((30, 20), zoom=2, degrees=50), 30, 20) == pytest.approx([30, 20])
    assert _at(about((30, 20), shift=(4, -3)), 30, 20) == pytest.approx([34, 17])


def test_positive_degrees_turn_clockwise_on_the_screen():
    assert _at(about((0, 0), degrees=90), 1, 0) == pytest.approx([0, 1]), "right goes down, y points down"


def test_zoom_may_differ_across_and_down():
    assert _at(about((10, 10), zoom=(2, 0.5)), 12, 14) == pytest.approx([14, 12])


def test_a_shift_by_whole_pixels_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(shown(image, about((0, 0), shift=(5, 3)))[3:, 5:], image[:-3, :-5])


def test_layers_carry_their_mask_and_are_empty_beyond_the_border():
    image = np.random.default_rng(0).uniform(0, 255, (40, 50, 3)).astype(np.float32)
    mask = np.ones((40, 50), np.float32)
    y, x = grid(40, 50)
    for moved, alpha in (layer(image, mask, about((0, 0), shift=(6, 0))), layer_from(image, mask, (x - 6, y))):
        assert alpha[:, :6].max() == 0 and alpha[:, 7:].min() == 1
        assert np.allclose(moved[:, 6:], image[:, :-6], atol=1e-3)


def test_a_field_of_every_pixel_itself_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    y, x = grid(40, 50)
    assert np.array_equal(seen_from(image, (x, y)), image)
