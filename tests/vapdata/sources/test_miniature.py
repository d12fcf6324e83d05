from pathlib import Path

import numpy as np
import pytest

from vapdata.clip import Video
from vapdata.errors import CallError
from vapdata.scenes import COLOURS, CONDITIONS, HELD_OUT, HELD_OUT_TURNS, SHAPES, Thing, thing_mask
from vapdata.sources.miniature import PLACE, Miniature
from vapdata.video import frames


def _videos(source: Miniature) -> list[Video]:
    return [each for each in source.list() if isinstance(each, Video)]


def test_the_same_settings_write_the_same_bytes_and_other_settings_other_files(tmp_path: Path) -> None:
    one, two = (Miniature(root=str(tmp_path / name), count=6) for name in ("one", "two"))
    assert [each.uri for each in _videos(one)] == [each.uri for each in _videos(two)]
    for video in _videos(one):
        assert (tmp_path / "one" / video.uri).read_bytes() == (tmp_path / "two" / video.uri).read_bytes()
    other = Miniature(root=str(tmp_path / "one"), count=6, seed=1)
    assert not {each.uri for each in _videos(one)} & {each.uri for each in _videos(other)}


def test_the_neutral_captions_are_about_the_same_files(tmp_path: Path) -> None:
    full, neutral = (_videos(Miniature(root=str(tmp_path), count=4, captions=captions)) for captions in ("full", "neutral"))
    assert [each.uri for each in full] == [each.uri for each in neutral]
    for one, other in zip(full, neutral, strict=True):
        assert one.caption.startswith(other.caption + " ")


def test_held_out_subjects_are_validation_and_every_shape_and_colour_is_trained_on(tmp_path: Path) -> None:
    videos = _videos(Miniature(root=str(tmp_path), count=200, frames=2, height=16, width=16))
    train = {tuple(reversed(each.split_group.split())) for each in videos if each.split == "train"}
    held = {tuple(reversed(each.split_group.split())) for each in videos if each.split == "validation"}
    assert held <= HELD_OUT and not train & HELD_OUT and len(held) >= 4
    assert {shape for shape, _ in train} == set(SHAPES)
    assert {colour for _, colour in train} == set(COLOURS)


def test_conditions_come_in_turn_and_are_planted_as_labels(tmp_path: Path) -> None:
    videos = _videos(Miniature(root=str(tmp_path), count=2 * len(CONDITIONS), frames=2, height=16, width=16))
    assert [each.label for each in videos] == list(CONDITIONS) * 2
    for video in videos:
        assert video.scores[f"miniature_{CONDITIONS[video.label].category}"] == video.label
        assert 0.85 <= video.scores["miniature_strength"] <= 1.15


def test_the_objects_masks_are_planted(tmp_path: Path) -> None:
    source = Miniature(root=str(tmp_path), count=12, pairs=True, height=64, width=64)
    for number, video in enumerate(_videos(source)):
        first = source.draw(source.made(number))[0].astype(int)
        words = video.caption.split(" on a ")[0].split(" beside ")
        assert set(video.scores) <= set(source.scores()) and len(words) == 2
        for whose, told in zip(("", "other_"), words, strict=True):
            _, colour, shape = told.split()
            place = {name: video.scores[f"miniature_{whose}{name}"] for name in PLACE}
            inside = first[thing_mask(Thing(shape=shape, colour=colour, **place), 64, 64) > 0.999]
            assert len(inside) > 20 and np.abs(inside - np.multiply(COLOURS[colour], 255)).max() <= 2, told
    assert not {name for name in Miniature().scores() if "other" in name}, "one object, one place"


def test_the_file_shows_what_was_drawn(tmp_path: Path) -> None:
    source = Miniature(root=str(tmp_path), count=1, height=64, width=64)
    _videos(source)
    made = source.made(0)
    drawn = source.draw(made)
    read = np.stack([frame.image for frame in frames(str(tmp_path / source.file(made)))])
    assert read.shape == drawn.shape
    assert np.abs(read.astype(int) - drawn).mean() < 4


def test_with_turns_the_held_out_sector_is_validation_and_the_turn_is_planted(tmp_path: Path) -> None:
    videos = _videos(Miniature(root=str(tmp_path), count=120, frames=2, height=16, width=16, conditions=("slide_up", "cool", "fade"), turn=20))
    subjects = {tuple(reversed(each.split_group.split())) for each in videos if each.split == "train"}
    turns = {name: [each.scores["miniature_turn"] for each in videos if each.split == name] for name in ("train", "validation")}
    assert not subjects & HELD_OUT
    assert not [each for each in turns["train"] if HELD_OUT_TURNS[0] <= each < HELD_OUT_TURNS[1]]
    assert [each for each in turns["validation"] if HELD_OUT_TURNS[0] <= each < HELD_OUT_TURNS[1]]
    assert {each.scores["miniature_turn"] for each in videos if each.label == "fade"} == {0.0}
    assert min(turns["train"]) < -15


def test_a_condition_that_is_none_is_refused_with_what_there_is() -> None:
    with pytest.raises(CallError, match="no condition 'slide_rigt'. Known: slide_right"):
        Miniature(conditions=("slide_rigt",))
