"""Drawn shots hold what they say."""

import numpy as np
import pytest

from vapdata.shapes import CAMERAS, COLOURS, draw, mask, plan


def _shots(count=24, **changes):
    size = {"frames": 16, "height": 96, "width": 160, **changes}
    return [shot for index in range(count) for shot in plan(index, 0, **size)]


def test_every_camera_and_both_moving_and_resting_objects_occur():
    shots = _shots()
    assert {shot.camera for shot in shots} == set(CAMERAS)
    assert {shot.direction is None for shot in shots} == {True, False}


def test_every_sixth_video_has_two_shots_that_share_no_colour():
    for index in range(24):
        shots = plan(index, 0, frames=8, height=96, width=160)
        assert len(shots) == (2 if index % 6 == 5 else 1)
        colours = [colour for shot in shots for colour in (shot.colour, shot.ground)]
        assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("frames", [2, 16, 60])
def test_the_object_stays_in_the_picture_and_moves_as_it_says(frames):
    for shot in _shots(12, frames=frames):
        for frame in (0, frames // 2, frames - 1):
            x0, y0, x1, y1 = shot.box(frame)
            assert 0 <= x0 < x1 <= shot.width
            assert 0 <= y0 < y1 <= shot.height
            assert (x1 - x0, y1 - y0) == (2 * shot.radius + 1, 2 * shot.radius + 1)
        first, second = shot.middle(0), shot.middle(1)
        assert abs(second[0] - first[0]) + abs(second[1] - first[1]) == shot.speed_px


def test_the_object_has_its_colour_and_the_rest_has_another():
    for shot in _shots(6):
        for frame, image in enumerate(draw(shot)):
            inside = mask(shot, frame)
            assert (image[inside] == COLOURS[shot.colour]).all()
            assert np.abs(image[~inside].mean(0) - COLOURS[shot.ground]).max() < 20


def test_a_pan_moves_the_ground_by_whole_pixels_against_the_camera():
    shot = next(shot for shot in _shots() if shot.camera == "pan_right")
    first, second = list(draw(shot))[:2]
    moved = np.zeros_like(first)
    moved[:, : -shot.pan_px] = first[:, shot.pan_px :]
    ground = ~mask(shot, 0) & ~mask(shot, 1)
    still = np.zeros_like(ground)
    still[:, : -shot.pan_px] = ground[:, shot.pan_px :] & ground[:, : -shot.pan_px]
    assert still.mean() > 0.5
    assert (moved[still] == second[still]).all()


def test_the_caption_says_what_is_drawn():
    for shot in _shots():
        assert shot.caption.startswith(f"{'an' if shot.colour[0] in 'aeiou' else 'a'} {shot.colour} {shot.shape} ")
        assert f" background{'' if shot.camera == 'static' else ' while the camera '}" in shot.caption
