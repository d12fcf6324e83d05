"""A coarse map becomes a clean mask of the right place; a map that says nothing becomes the middle."""

import numpy as np
import pytest

from vapdata.conditions.subject import centred, subject_of


def _grid(*boxes, level=1.0):
    grid = np.zeros((12, 20), np.float32)
    for (top, left, bottom, right), height in boxes:
        grid[top:bottom, left:right] = height * level
    return grid


def _box(mask):
    rows, columns = np.nonzero(mask > 0.5)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_a_block_of_the_grid_becomes_a_soft_mask_at_its_place():
    mask = subject_of(_grid(((3, 5, 9, 12), 1.0)), 96, 160)
    assert np.abs(np.array(_box(mask)) - [24, 40, 72, 96]).max() <= 3
    assert mask.min() == 0 and mask.max() == 1
    assert ((mask > 0) & (mask < 1)).mean() < 0.06


def test_only_the_largest_part_is_kept_and_its_holes_are_filled():
    grid = _grid(((2, 2, 10, 11), 1.0), ((4, 16, 6, 18), 1.0))
    grid[5, 6] = 0
    mask = subject_of(grid, 96, 160)
    assert mask[44, 52] == 1
    assert mask[:, 110:].max() == 0


def test_the_scale_of_the_map_does_not_matter():
    boxes = ((3, 5, 9, 12), 1.0)
    assert np.array_equal(subject_of(_grid(boxes), 96, 160), subject_of(_grid(boxes, level=0.1), 96, 160))


@pytest.mark.parametrize(
    "grid", [None, np.zeros((12, 20), np.float32), np.full((12, 20), 0.4, np.float32), _grid(((5, 5, 6, 6), 1.0)), _grid(((0, 0, 11, 20), 1.0))]
)
def test_a_flat_tiny_or_overfull_map_gives_the_middle(grid):
    assert np.array_equal(subject_of(grid, 96, 160), centred(96, 160))


def test_the_middle_is_an_upright_ellipse_of_its_stated_size():
    top, left, bottom, right = _box(centred(100, 200))
    assert bottom - top == pytest.approx(62, abs=3)
    assert right - left == pytest.approx(42, abs=3)
    assert (top + bottom) / 2 == pytest.approx(50, abs=1.5)
    assert (left + right) / 2 == pytest.approx(100, abs=1.5)


def test_a_picture_draws_the_mask_to_its_colours():
    image = np.full((96, 160, 3), (40, 150, 60), np.uint8)
    image[30:70, 50:90] = (210, 40, 40)
    y, x = np.mgrid[:12, :20]
    grid = np.exp(-(((y - 6) / 4) ** 2) - ((x - 9) / 4.5) ** 2).astype(np.float32)
    true = np.zeros((96, 160), bool)
    true[30:70, 50:90] = True
    coarse, fine = (subject_of(grid, 96, 160, picture) > 0.5 for picture in (None, image))
    agreed = [(mask & true).sum() / (mask | true).sum() for mask in (coarse, fine)]
    assert agreed[1] > 0.8
    assert agreed[1] > agreed[0] + 0.1


def test_a_segmentation_at_full_size_is_kept():
    true = np.zeros((96, 160), np.float32)
    true[20:80, 30:70] = 1
    mask = subject_of(true, 96, 160) > 0.5
    assert (mask & (true > 0)).sum() / (mask | (true > 0)).sum() > 0.93
