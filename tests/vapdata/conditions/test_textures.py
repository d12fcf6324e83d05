"""Noise is even and repeats with its seed; partitions cover the plane."""

import numpy as np

from vapdata.conditions.textures import borders, means, noise, shards, triangles


def _random(seed=0):
    return np.random.default_rng(seed)


def test_noise_is_evenly_spread_and_smooth():
    plane = noise(_random(), 96, 160, 12, 2)
    assert [round(float((plane < level).mean()), 2) for level in (0.1, 0.5, 0.9)] == [0.1, 0.5, 0.9]
    assert np.abs(np.diff(plane, axis=1)).mean() < 0.08


def test_noise_repeats_with_its_seed_only():
    assert np.array_equal(noise(_random(), 40, 50, 6), noise(_random(), 40, 50, 6))
    assert not np.array_equal(noise(_random(), 40, 50, 6), noise(_random(1), 40, 50, 6))


def test_shards_belong_to_their_nearest_middle_and_have_the_asked_size():
    labels = shards(_random(), 90, 150, 15)
    areas = np.bincount(labels.ravel())
    assert len(areas) == 60 and areas.min() > 0
    assert abs(areas.mean() - 225) < 1


def test_triangles_cover_the_picture():
    labels = triangles(_random(), 90, 150, 15)
    areas = np.bincount(labels.ravel(), minlength=120)
    assert len(areas) == 120
    assert (areas > 20).mean() > 0.95


def test_means_are_those_of_the_cells():
    labels = np.repeat(np.arange(4), 10)[None].repeat(8, 0).astype(np.int32)
    image = _random().uniform(0, 255, (8, 40, 3)).astype(np.float32)
    out = means(image, labels)
    assert np.allclose(out[:, 10:20], image[:, 10:20].mean((0, 1)), atol=1e-2)


def test_borders_lie_between_cells():
    labels = np.repeat(np.arange(2), 20)[None].repeat(30, 0).astype(np.int32)
    lines = borders(labels, 1)
    assert lines[15, 20] > 0.4 and lines[:, :17].max() == 0 and lines[:, 24:].max() == 0
