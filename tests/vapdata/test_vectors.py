"""Vectors of a real stream: known shifts, through the plain reader and the child process alike."""

import cv2
import numpy as np
import pytest

from vapdata.decoder import Decoder
from vapdata.video import Fit, frames, write

SHIFT = 4


@pytest.fixture(scope="module")
def panned(tmp_path_factory):
    """A picture of 512 x 256 whose left half moves right by 4 pixels a frame, H.264 without B-frames to speak of."""
    path = tmp_path_factory.mktemp("vectors") / "panned.mp4"
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((256, 400, 3)), (0, 0), 2)
    world = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    still = world[:, :256]
    write(path, (np.concatenate([world[:, 100 - SHIFT * step : 356 - SHIFT * step], still], 1) for step in range(20)), 20)
    return path


def test_patches_have_the_length_of_a_known_shift(panned):
    lengths = [frame.vectors for frame in frames(panned, Fit(vectors=True)) if frame.vectors is not None]
    assert {each.shape for each in lengths} == {(1, 2)}
    # A reference may lie a few frames away, where B-frames are used: whole multiples of the shift, never less.
    assert np.median([each[0, 0] for each in lengths]) >= 0.85 * SHIFT
    assert max(each[0, 1] for each in lengths) < 0.5


def test_a_key_frame_has_none_and_nobody_who_did_not_ask(panned):
    assert next(frames(panned, Fit(vectors=True))).vectors is None
    assert all(frame.vectors is None and frame.detail is None for frame in frames(panned))


def test_without_pixels_frames_are_empty_and_the_vectors_the_same(panned):
    hurried, whole = list(frames(panned, Fit(vectors=True, pixels=False))), list(frames(panned, Fit(vectors=True)))
    assert {frame.image.shape for frame in hurried} == {(0, 0, 3)}
    assert [frame.time_s for frame in hurried] == [frame.time_s for frame in whole]
    assert [None if each.vectors is None else each.vectors.tolist() for each in hurried] == [None if each.vectors is None else each.vectors.tolist() for each in whole]


def test_a_detail_is_the_luma_of_the_middle_unscaled(panned):
    shown = next(frames(panned, Fit(long_side=64, detail=True)))
    assert shown.image.shape == (32, 64, 3)
    assert shown.detail.shape == (256, 256)
    full = cv2.cvtColor(next(frames(panned)).image, cv2.COLOR_RGB2GRAY)[:, 128:384].astype(int)
    # video range: 16 to 235 for 0 to 255
    assert np.abs((shown.detail.astype(int) - 16) * 255 / 219 - full).mean() < 3


@pytest.mark.parametrize("fit", [Fit(vectors=True), Fit(long_side=64, detail=True, vectors=True), Fit(vectors=True, pixels=False)])
def test_the_child_process_gives_the_same(panned, fit):
    with Decoder() as decoder:
        decoder.probe(panned)
        for ours, theirs in zip(frames(panned, fit), decoder.frames(panned, fit), strict=True):
            assert (ours.index, ours.time_s) == (theirs.index, theirs.time_s)
            assert np.array_equal(ours.image, theirs.image)
            for name in ("detail", "vectors"):
                here, there = getattr(ours, name), getattr(theirs, name)
                assert (here is None and there is None) or np.array_equal(here, there), name
