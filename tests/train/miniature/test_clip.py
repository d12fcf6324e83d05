"""The tiny CLIP's training: which captions are true of which pictures, and a loss that knows."""

import math

import numpy as np
import torch

from train.miniature import clips
from train.miniature.clip import ClipRun, Drawn, Told, all_true, contrast, is_true, pictures, told
from vapdata.scenes import Scene, Thing

RED_CIRCLE, BLUE_BAR = Thing(shape="circle", colour="red", x=-0.5, size=0.34), Thing(shape="bar", colour="blue", x=0.5, size=0.34)
BOTH = Scene(subject=RED_CIRCLE, other=BLUE_BAR, ground="gray")
ALONE = Scene(subject=RED_CIRCLE, ground="black")


def test_a_caption_is_true_where_all_that_it_names_is_there() -> None:
    one = Told(text="a red circle", things=(RED_CIRCLE,), ground=None)
    assert is_true(one, BOTH) and is_true(one, ALONE)
    assert not is_true(Told(text="a blue bar", things=(BLUE_BAR,), ground=None), ALONE)
    on_gray = Told(text="a red circle on a gray background", things=(RED_CIRCLE,), ground="gray")
    assert is_true(on_gray, BOTH) and not is_true(on_gray, ALONE)


def test_all_pairs_at_once_are_as_true_as_one_by_one() -> None:
    random = np.random.default_rng(2)
    scenes = [clips.trained_scene(random, two=place % 2 == 0) for place in range(120)]
    captions = [told(random, scene) for scene in scenes]
    one_by_one = [[is_true(caption, scene) for caption in captions] for scene in scenes]
    np.testing.assert_array_equal(all_true(captions, scenes), one_by_one)
    assert 120 < np.sum(one_by_one) < 120 * 120 / 4, "no pair is true but its own, or most are"


def test_a_step_is_drawn_from_seed_and_step_alone() -> None:
    run = ClipRun(steps=3, batch=4)
    shown, captions, true = Drawn(run)[2]
    again = Drawn(run)[2]
    assert torch.equal(shown, again[0]) and captions == again[1] and torch.equal(true, again[2])
    assert captions != Drawn(run)[1][1] and true.diagonal().all()


def test_captions_of_two_objects_name_either_or_both_and_are_true() -> None:
    random = np.random.default_rng(0)
    captions = [told(random, BOTH) for _ in range(200)]
    assert all(is_true(each, BOTH) for each in captions)
    assert {each.things for each in captions} == {(RED_CIRCLE,), (BLUE_BAR,), (RED_CIRCLE, BLUE_BAR)}
    assert told(random, ALONE).text == ALONE.words


def test_a_true_pair_off_the_diagonal_is_neither_for_nor_against() -> None:
    logits = torch.tensor([[2.0, 9.0], [0.0, 1.0]])
    true = torch.tensor([[True, True], [False, True]])
    # Rows: -log softmax(2 | 2) = 0 and of 1 over (0, 1); columns: of 2 over (2, 0) and 0.
    wanted = (math.log(1 + math.exp(-1)) / 2 + math.log(1 + math.exp(-2)) / 2) / 2
    assert math.isclose(float(contrast(logits, true)), wanted, rel_tol=1e-6)
    assert float(contrast(logits, torch.eye(2, dtype=torch.bool))) > wanted


def test_pictures_are_squares_normalised_as_clip_wants_them() -> None:
    made = pictures(np.random.default_rng(0), [BOTH, ALONE, BOTH])
    assert made.shape == (3, 3, 96, 96)
    assert -2.2 < float(made.min()) < -1 and 1 < float(made.max()) < 2.8
