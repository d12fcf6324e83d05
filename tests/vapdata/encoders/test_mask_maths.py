"""S3-S6 of methods.md 4.4: planted rectangles, the probabilistic OR, normalisation, smoothing."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vapdata.encoders import mask_maths
from vapdata.encoders.mask_maths import attention_mask, enhance, fuse, inverse_minmax, minmax, mlp_mask, smooth

RECTANGLES = [(2, 3, 10, 11), (5, 5, 15, 20), (0, 0, 10, 12), (12, 10, 24, 24)]
"""Top, left, bottom, right on a 24 x 24 grid. The 3 x 3 mean leaves 4/9 in a corner, so a corner patch is below one half:
four of 36 lost in 6 x 6 is an IoU of 0.89 by construction; from 8 x 8 on it is above 0.9."""


def planted(rectangle: tuple[int, int, int, int], sign: float, width: int = 64, side: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Stub patch features: random directions, `sign` times the text's inside the rectangle. Features, text, truth."""
    generator = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    features = 0.1 * torch.randn(side, side, width, generator=generator) / width**0.5
    truth = torch.zeros(side, side, dtype=torch.bool)
    truth[rectangle[0] : rectangle[2], rectangle[1] : rectangle[3]] = True
    features[truth] += sign * text
    return features, text, truth


def iou(mask: Tensor, truth: Tensor, threshold: float = 0.5) -> float:
    """Intersection over union of the mask above `threshold` and the truth."""
    found = mask > threshold
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("rectangle", RECTANGLES)
def test_aligned_patches_in_a_rectangle_come_back_as_the_attention_mask(rectangle: tuple[int, int, int, int]) -> None:
    features, text, truth = planted(rectangle, sign=1)
    mask = attention_mask((features @ text)[None], coefficient=5, kernel=3)[0]
    assert iou(mask, truth) > 0.9


@pytest.mark.parametrize("rectangle", RECTANGLES)
def test_anti_aligned_patches_come_back_as_the_same_rectangle_in_the_mlp_mask(rectangle: tuple[int, int, int, int]) -> None:
    features, text, truth = planted(rectangle, sign=-1)
    mask = mlp_mask((features @ text)[None], kernel=3)[0]
    assert iou(mask, truth) > 0.9


@pytest.mark.parametrize("rectangle", RECTANGLES)
def test_both_fuse_to_the_rectangle(rectangle: tuple[int, int, int, int]) -> None:
    aligned, text, truth = planted(rectangle, sign=1)
    against, _, _ = planted(rectangle, sign=-1)
    attention = attention_mask((aligned @ text)[None], coefficient=5, kernel=3)
    mlp = mlp_mask((against @ text)[None], kernel=3)
    fused = minmax(fuse(attention, mlp))[0]
    # One third on either side of an edge becomes 1 - (2/3)^2 = 0.56 outside and 0.89 inside: the edge lies at 2/3.
    assert iou(fused, truth, threshold=2 / 3) > 0.9


def test_the_or_obeys_its_algebra() -> None:
    a, b = torch.rand(2, 1, 5, 7, dtype=torch.float64)
    fused = fuse(a, b)
    assert ((fused >= torch.maximum(a, b) - 1e-15) & (fused <= 1)).all()
    torch.testing.assert_close(fused, fuse(b, a), rtol=0, atol=0)
    torch.testing.assert_close(fused, 1 - (1 - a) * (1 - b), rtol=0, atol=1e-15)
    torch.testing.assert_close(fuse(a, torch.zeros_like(a)), a, rtol=0, atol=0)
    torch.testing.assert_close(fuse(a, torch.ones_like(a)), torch.ones_like(a), rtol=0, atol=1e-15)


def test_normalisation_does_not_see_scale_and_shift() -> None:
    scores = torch.randn(3, 6, 6, dtype=torch.float64)
    for mask in (minmax, inverse_minmax, lambda grid: attention_mask(grid, 5, 3), lambda grid: mlp_mask(grid, 3)):
        torch.testing.assert_close(mask(7.5 * scores - 3), mask(scores), rtol=0, atol=1e-12)


def test_a_negative_scale_reverses_the_inverse_normalisation() -> None:
    scores = torch.randn(2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(inverse_minmax(-scores), minmax(scores), rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_minmax(scores), 1 - minmax(scores), rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e30])
def test_a_constant_map_gives_zeros(value: float) -> None:
    scores = torch.full((2, 5, 5), value)
    scores[1] += scores[1] * torch.finfo(torch.float32).eps * torch.rand(5, 5)
    for mask in (minmax(scores), inverse_minmax(scores), attention_mask(scores, 5, 3), mlp_mask(scores, 3)):
        torch.testing.assert_close(mask, torch.zeros_like(scores), rtol=0, atol=0)


def test_enhancement_equals_the_formula_in_float64() -> None:
    scores = np.random.default_rng(0).random((6, 7))
    z = (scores - scores.mean()) / scores.std(ddof=1)
    expected = 1 / (1 + np.exp(-5 * z))
    np.testing.assert_allclose(enhance(torch.from_numpy(scores)[None], 5)[0].numpy(), expected, atol=1e-14)


def test_smoothing_equals_opencvs_mean_with_replicated_edges() -> None:
    grid = np.random.default_rng(1).random((8, 9))
    expected = cv2.blur(grid, (3, 3), borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(smooth(torch.from_numpy(grid)[None], 3)[0].numpy(), expected, atol=1e-14)


def test_smoothing_leaves_a_constant_alone_and_keeps_the_range() -> None:
    torch.testing.assert_close(smooth(torch.full((1, 4, 4), 0.3), 3), torch.full((1, 4, 4), 0.3))
    grid = torch.rand(1, 8, 8)
    assert smooth(grid, 3).min() >= grid.min()
    assert smooth(grid, 3).max() <= grid.max()
    torch.testing.assert_close(smooth(grid, 1), grid)


def test_grids_of_a_batch_do_not_touch_each_other() -> None:
    scores = torch.randn(4, 6, 6)
    together = attention_mask(scores, 5, 3)
    alone = torch.cat([attention_mask(scores[i : i + 1], 5, 3) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_a_hand_computed_grid_goes_through_every_step() -> None:
    scores = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]])
    # min-max: 1 in the middle; inverse: 0 there and 1 around; 3 x 3 mean of the middle cell: 8/9; corner (0,0) sees the centre once.
    mask = mlp_mask(scores, 3)[0]
    assert mask[1, 1].item() == pytest.approx(8 / 9)
    assert mask[0, 0].item() == pytest.approx(8 / 9)
    # z of the middle: (1 - 1/9) / sqrt(((8/9)^2 + 8 (1/9)^2) / 8) = 8/3
    sharpened = enhance(minmax(scores), 5)[0]
    assert sharpened[1, 1].item() == pytest.approx(1 / (1 + np.exp(-5 * 8 / 3)))
    assert mask_maths.ROUNDING == 16
