"""The tiny CLIP's training: which captions are true of which pictures, and a loss that knows."""

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from train.miniature import clip, clips
from train.miniature.clip import CONTEXT, ClipRun, Drawn, Told, all_true, contrast, is_true, pictures, told, train
from vapdata.scenes import COLOURS, FURTHER, GROUNDS, SHAPES, Scene, Thing

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


def test_the_longest_caption_is_read_whole() -> None:
    things = [Thing(shape=shape, colour=colour) for shape in SHAPES for colour in (*COLOURS, *FURTHER)]
    longest = max((Scene(subject=one, other=other, ground=ground).words for one in things for other in things for ground in GROUNDS), key=lambda words: len(words.split()))
    assert 0 < open_clip.SimpleTokenizer(context_length=CONTEXT + 1)([longest]).count_nonzero() <= CONTEXT


def test_a_short_context_trains_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ClipRun(steps=3, batch=6)
    short = train(run, tmp_path)
    monkeypatch.setattr(clip, "CONTEXT", 77)
    whole = train(run, tmp_path)
    # Not weight by weight: the bias of keys has no effect on attention, so its gradient is rounding, which AdamW scales up.
    assert [each.shape for each in short.parameters()] == [each.shape for each in whole.parameters()]
    shown, captions, _ = Drawn(run)[0]
    tokens = open_clip.SimpleTokenizer(context_length=77)(captions)
    with torch.no_grad():
        torch.testing.assert_close(short.encode_text(tokens), whole.encode_text(tokens), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(short.encode_image(shown), whole.encode_image(shown), atol=1e-4, rtol=1e-3)
