"""What tiny VAEs and CLIPs are trained on leaves out what they are judged on."""

import numpy as np

from train.miniature import clips
from vapdata.scenes import HELD_OUT_TURNS


def test_training_scenes_hold_no_held_out_subject_and_judging_scenes_nothing_else() -> None:
    random = np.random.default_rng(0)
    trained = [clips.trained_scene(random, two=place % 2 == 0) for place in range(300)]
    assert not any(each.subject.held_out or (each.other and each.other.held_out) for each in trained)
    assert {each.subject.colour for each in trained} >= {"orange", "grey", "red"}
    assert all(clips.held_out_scene(random, two=False).subject.held_out for _ in range(30))


def test_a_batch_is_drawn_from_its_random_numbers_alone() -> None:
    one, other = (clips.batch(np.random.default_rng(5), 8) for _ in range(2))
    assert one.shape == (8, clips.FRAMES, clips.SIDE, clips.SIDE, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, clips.batch(np.random.default_rng(6), 8))


def test_directions_of_the_held_out_sector_are_never_drawn() -> None:
    random = np.random.default_rng(1)
    turns = np.array([clips.trained_turn(random) for _ in range(500)])
    assert not np.any((turns >= HELD_OUT_TURNS[0]) & (turns < HELD_OUT_TURNS[1]))
    assert turns.min() < -18 and turns.max() > HELD_OUT_TURNS[1] and np.any((turns > 0) & (turns < HELD_OUT_TURNS[0]))
