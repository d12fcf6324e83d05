"""All procedural conditions alike: what they are called, how they are drawn, that renders repeat."""

import json

import numpy as np
import pytest

from vapdata.conditions.procedural import PROGRAMS
from vapdata.conditions.statistics import STATISTICS
from vapdata.errors import CallError

pytestmark = pytest.mark.slow

NAMES = sorted(PROGRAMS)
STARTS = [name for name in NAMES if PROGRAMS[name].starts_from_source]


def test_there_are_at_least_sixty_conditions_in_four_categories():
    counts = {category: sum(program.category == category for program in PROGRAMS.values()) for category in ("camera", "style", "motion", "concept")}
    assert len(PROGRAMS) >= 60
    assert min(counts.values()) >= 15
    assert sum(counts.values()) == len(PROGRAMS)


def test_no_name_is_lost_because_two_programs_have_it():
    from vapdata.conditions.camera_moves import CAMERA_MOVES
    from vapdata.conditions.concepts import CONCEPTS
    from vapdata.conditions.motions import MOTIONS
    from vapdata.conditions.styles import STYLES

    assert len(PROGRAMS) == len(CAMERA_MOVES) + len(STYLES) + len(MOTIONS) + len(CONCEPTS)


def test_every_sentence_can_end_a_caption_and_is_said_once():
    sentences = [program.sentence for program in PROGRAMS.values()]
    assert len(set(sentences)) == len(sentences)
    assert all(sentence[0].isupper() and sentence.endswith(".") and "  " not in sentence for sentence in sentences)


def test_documented_statistics_exist():
    assert {name for program in PROGRAMS.values() for name in program.moves} <= set(STATISTICS)
    assert all(program.moves for program in PROGRAMS.values() if program.category == "style")


@pytest.mark.parametrize("name", NAMES)
def test_drawn_parameters_repeat_lie_in_range_and_survive_json(name):
    program = PROGRAMS[name]
    drawn = [program.draw(seed) for seed in range(20)]
    assert drawn == [program.draw(seed) for seed in range(20)]
    assert json.loads(json.dumps(drawn)) == drawn
    for key, (low, high) in program.ranges.items():
        values = [each[key] for each in drawn]
        assert low - 1e-4 <= min(values) < max(values) <= high + 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_render_has_the_asked_frames_and_repeats_bit_for_bit(name, drawn):
    frames, subject = drawn
    parameters, before = PROGRAMS[name].draw(3), np.random.get_state()[1].copy()
    kept = frames.copy(), subject.copy()
    first = PROGRAMS[name].render(frames, subject, parameters, 9)
    second = PROGRAMS[name].render(np.concatenate([frames, frames])[:9].copy(), subject.copy(), dict(parameters), 9)
    assert first.shape == frames.shape
    assert np.array_equal(first, second)
    assert np.array_equal(frames, kept[0]) and np.array_equal(subject, kept[1])
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", NAMES)
def test_something_happens(name, drawn):
    frames, subject = drawn
    shown = PROGRAMS[name].render(frames, subject, PROGRAMS[name].draw(1), 13)
    steps = np.abs(shown[1:].astype(int) - shown[:1]).mean((1, 2, 3))
    assert steps.max() > 1


@pytest.mark.parametrize("name", STARTS)
def test_frame_0_is_the_source_and_frame_1_goes_on_from_it(name, drawn):
    frames, subject = drawn
    shown = PROGRAMS[name].render(frames, subject, PROGRAMS[name].draw(5), 49)
    assert np.array_equal(shown[0], frames[0])
    assert np.abs(shown[1].astype(int) - shown[0]).mean() < 6


@pytest.mark.parametrize("name", NAMES)
def test_other_shapes_and_subjects_that_fill_or_miss_the_picture_are_taken(name):
    random = np.random.default_rng(0)
    for height, width in ((32, 32), (70, 41)):
        frames = random.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        for subject in (None, np.ones((height, width), np.float32), np.zeros((height, width), np.float32)):
            for count in (1, 2):
                assert PROGRAMS[name].render(frames, subject, PROGRAMS[name].draw(2), count).shape == (count, height, width, 3)


def test_frames_of_a_clip_are_spread_over_the_asked_count(drawn):
    frames = np.stack([np.full((48, 64, 3), level, np.uint8) for level in (0, 100, 200)])
    shown = PROGRAMS["negative"].render(frames, None, {"arrives": 0.25, "contrast": 1.0}, 5)
    assert [int(frame.mean()) for frame in shown] == [0, 255, 155, 55, 55]


@pytest.mark.parametrize(
    ("parameters", "count", "words"),
    [
        ({}, 5, r"pan_left: got parameters \[\], wants \['reach', 'zoom'\]; draw\(seed\) gives them"),
        ({"zoom": 9.0, "reach": 1.0}, 5, r"pan_left: zoom=9, wants 1.45 to 1.6; draw\(seed\) gives such values"),
        ({"zoom": 1.5, "reach": 1.0}, 0, r"pan_left: 0 frames from 9 of 96 x 160 pixels; wants at least one of each"),
    ],
)
def test_a_wrong_call_says_what_is_wanted(parameters, count, words, drawn):
    with pytest.raises(CallError, match=words):
        PROGRAMS["pan_left"].render(*drawn, parameters, count)
