"""Arithmetic on pictures against cases worked out by hand."""

import numpy as np
import pytest

from vapdata.conditions import picture


def _flat(*colour):
    return np.full((40, 60, 3), colour, np.float32)


def test_bytes_are_rounded_and_clipped():
    assert picture.as_bytes(_flat(-5, 99.5, 300))[0, 0].tolist() == [0, 100, 255]


def test_luma_is_rec_601s():
    assert picture.luma(_flat(100, 0, 0))[0, 0] == pytest.approx(29.9)
    assert picture.luma(_flat(255, 255, 255))[0, 0] == pytest.approx(255)


def test_blend_goes_from_under_to_over():
    half = picture.blend(_flat(0, 0, 0), _flat(200, 100, 50), 0.5)
    assert half[0, 0].tolist() == [100, 50, 25]
    weight = np.zeros((40, 60), np.float32)
    weight[0] = 1
    mixed = picture.blend(_flat(0, 0, 0), _flat(200, 100, 50), weight)
    assert mixed[0, 0, 0] == 200 and mixed[1, 0, 0] == 0


def test_saturation_0_is_grey_and_1_changes_nothing():
    image = _flat(200, 40, 90)
    assert np.ptp(picture.saturated(image, 0.0)[0, 0]) < 1e-3
    assert np.allclose(picture.saturated(image, 1.0), image)


def test_step_is_0_then_1_and_a_half_between():
    plane = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]], np.float32)
    assert picture.step(1.0, 3.0, plane).tolist() == [[0, 0, 0.5, 1, 1]]


def test_stretched_levels_fill_the_scale():
    plane = np.tile(np.linspace(90, 110, 1000, dtype=np.float32), (4, 1))
    out = picture.stretched(plane)
    assert out.min() == 0 and out.max() == 255
    assert np.isfinite(picture.stretched(np.full((4, 4), 7, np.float32))).all()


def test_a_ramp_gives_its_colours_at_the_ends_and_mixes_between():
    plane = np.array([[0.0, 127.5, 255.0]], np.float32)
    out = picture.ramp(plane, ((0, 0, 0), (100, 200, 50)))
    assert out[0, 0].tolist() == [0, 0, 0] and out[0, 2].tolist() == [100, 200, 50]
    assert out[0, 1] == pytest.approx([50, 100, 25], abs=1)


def test_edges_lie_where_light_changes():
    plane = np.zeros((40, 60), np.float32)
    plane[:, 30:] = 200
    found = picture.edges(plane, 0.8)
    assert found[:, 29:31].min() > 0.9 and found[:, :20].max() == 0


def test_a_vignette_is_bright_in_the_middle_and_dark_in_the_corners():
    dark = picture.vignette(41, 61)
    assert dark[20, 30] == 1
    assert dark[0, 0] == pytest.approx(0.25)


def test_smoothing_flattens_noise_and_keeps_an_edge():
    random = np.random.default_rng(0)
    image = np.full((60, 80, 3), 60, np.uint8)
    image[:, 40:] = 190
    noisy = np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    flat = picture.smoothed(noisy, 2).astype(float)
    assert flat[:, :36].std() < 3
    assert flat[:, 41:44].mean() - flat[:, 36:39].mean() > 110
    assert picture.smoothed(np.tile(noisy, (4, 4, 1)), 1).shape == (240, 320, 3)
