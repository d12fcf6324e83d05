"""S7 and S11 of methods.md 4.4: what is sharp, what is blurred, and how a mask grows to a picture's size."""

import cv2
import numpy as np
import pytest
import torch

from vapdata.encoders.visual_prompt import blend, blur, upsample, visual_prompt


@pytest.fixture
def frame() -> np.ndarray:
    """A random u8 picture."""
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def blurred(frame: np.ndarray, sigma: float) -> np.ndarray:
    """The frame blurred by OpenCV, float."""
    side = 2 * round(3 * sigma) + 1
    return cv2.GaussianBlur(frame.astype(np.float64), (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def test_a_mask_of_ones_gives_the_frame(frame: np.ndarray) -> None:
    np.testing.assert_array_equal(visual_prompt(frame, np.ones((6, 10), np.float32)), frame)


def test_a_mask_of_zeros_gives_opencvs_gaussian_blur(frame: np.ndarray) -> None:
    found = visual_prompt(frame, np.zeros((6, 10), np.float32), blur_sigma=2.0)
    assert np.abs(found - blurred(frame, 2.0)).max() <= 0.51


def test_without_blur_the_mask_does_not_matter(frame: np.ndarray) -> None:
    mask = np.random.default_rng(1).random((6, 10)).astype(np.float32)
    np.testing.assert_array_equal(visual_prompt(frame, mask, blur_sigma=0), frame)
    np.testing.assert_array_equal(visual_prompt(frame, mask, blur_sigma=1e-3), frame)


def test_alpha_zero_gives_the_frame(frame: np.ndarray) -> None:
    mask = np.random.default_rng(1).random((6, 10)).astype(np.float32)
    np.testing.assert_array_equal(visual_prompt(frame, mask, alpha=0), frame)


def test_every_pixel_lies_between_sharp_and_blurred(frame: np.ndarray) -> None:
    mask = np.random.default_rng(2).random((6, 10)).astype(np.float32)
    found, soft = visual_prompt(frame, mask, blur_sigma=3.0).astype(float), blurred(frame, 3.0)
    assert (found >= np.minimum(frame, soft) - 0.51).all()
    assert (found <= np.maximum(frame, soft) + 0.51).all()


def test_the_default_blur_is_two_per_cent_of_the_shorter_side(frame: np.ndarray) -> None:
    zeros = np.zeros((6, 10), np.float32)
    np.testing.assert_array_equal(visual_prompt(frame, zeros), visual_prompt(frame, zeros, blur_sigma=0.96))


def test_blend_is_the_equation_in_float64() -> None:
    sharp, soft = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    weight = torch.rand(5, 6, dtype=torch.float64)
    torch.testing.assert_close(blend(sharp, soft, weight), weight * sharp + (1 - weight) * soft, rtol=0, atol=1e-15)


def test_blur_keeps_the_mean_of_a_constant_picture() -> None:
    torch.testing.assert_close(blur(torch.full((3, 20, 20), 7.0), 2.5), torch.full((3, 20, 20), 7.0))


@pytest.mark.parametrize("renormalise", ["minmax", "clamp"])
def test_bicubic_overshoot_stays_within_zero_and_one(renormalise: str) -> None:
    mask = torch.zeros(8, 8)
    mask[2:5, 3:6] = 1
    raw = torch.nn.functional.interpolate(mask[None, None], size=(64, 96), mode="bicubic", align_corners=False)[0, 0]
    assert raw.min() < -0.01
    assert raw.max() > 1.01
    large = upsample(mask, 64, 96, renormalise)
    assert large.shape == (64, 96)
    assert large.min() == 0
    assert large.max() == 1


def test_enlarging_follows_pixel_centres_as_opencv_does() -> None:
    mask = np.random.default_rng(3).random((12, 12)).astype(np.float32)
    theirs = cv2.resize(mask, (160, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    np.testing.assert_allclose(upsample(torch.from_numpy(mask), 96, 160, "clamp").numpy(), theirs, atol=1e-4)


def test_a_constant_mask_keeps_its_value() -> None:
    torch.testing.assert_close(upsample(torch.full((4, 4), 0.7), 9, 9), torch.full((9, 9), 0.7))


def test_enlarging_is_deterministic_and_agrees_with_float64() -> None:
    mask = torch.rand(12, 12)
    first = upsample(mask, 96, 160)
    torch.testing.assert_close(first, upsample(mask, 96, 160), rtol=0, atol=0)
    torch.testing.assert_close(first.double(), upsample(mask.double(), 96, 160), rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_enlarging_is_the_same_on_a_gpu() -> None:
    mask = torch.rand(12, 12)
    torch.testing.assert_close(upsample(mask.cuda(), 96, 160).cpu(), upsample(mask, 96, 160), rtol=0, atol=1e-5)
