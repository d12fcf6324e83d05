"""The miniature world, against what its formulas say."""

import numpy as np
import pytest

from vapdata.scenes import COLOURS, CONDITIONS, SHAPES, VANISHING, Scene, Thing, caption, draw_made, render, then, thing_mask

SCENE = Scene(subject=Thing(shape="square", colour="red"), ground="gray", stripes=0.3)
SIZE = {"frames": 9, "height": 48, "width": 48}


def _reds(frame: np.ndarray) -> np.ndarray:
    """Where a frame is nearly the subject's own red."""
    return np.abs(frame.astype(float) / 255 - COLOURS["red"]).max(-1) < 0.08


def _middle(frame: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(_reds(frame))
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_frame_0_is_the_plain_scene_whatever_comes_and_something_does_come(name: str) -> None:
    plain = render(SCENE, None, **SIZE)
    clip = render(SCENE, CONDITIONS[name], **SIZE)
    assert np.array_equal(clip[0], plain[0])
    assert np.array_equal(plain[0], plain[-1])
    assert np.abs(clip[-2].astype(int) - plain[-2]).mean() > 2


@pytest.mark.parametrize(
    ("name", "way"),
    [("slide_right", (1, 0)), ("slide_left", (-1, 0)), ("slide_up", (0, -1)), ("slide_down", (0, 1)), ("pan_left", (1, 0)), ("tilt_down", (0, -1))],
)
def test_what_moves_moves_by_the_stated_share_of_the_picture(name: str, way: tuple[int, int]) -> None:
    clip = render(SCENE, CONDITIONS[name], frames=9, height=64, width=64, strength=0.5)
    (x0, y0), (x1, y1) = _middle(clip[0]), _middle(clip[-1])
    share = 0.75 if name.startswith("slide") else 0.6
    assert (x1 - x0, y1 - y0) == pytest.approx((way[0] * 0.5 * share * 32, way[1] * 0.5 * share * 32), abs=0.6)


def test_growing_and_shrinking_change_the_area_by_the_square_of_the_scale() -> None:
    for name, scale in (("grow", 1.7), ("shrink", 0.4)):
        clip = render(SCENE, CONDITIONS[name], frames=5, height=96, width=96)
        assert _reds(clip[-1]).sum() / _reds(clip[0]).sum() == pytest.approx(scale**2, rel=0.12)


def test_grey_takes_all_colour_and_fade_takes_the_subject() -> None:
    grey = render(SCENE, CONDITIONS["grey"], **SIZE)[-1].astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    assert _reds(render(SCENE, CONDITIONS["fade"], **SIZE)[-1]).sum() == 0


def test_the_mask_covers_the_subject_and_not_the_second_object() -> None:
    scene = Scene(subject=Thing(shape="square", colour="red", x=0.5, size=0.34), ground="black", other=Thing(shape="circle", colour="blue", x=-0.5, size=0.34))
    frame = render(scene, None, frames=2, height=64, width=64)[0]
    mask = thing_mask(scene.subject, 64, 64)
    assert (_reds(frame) == (mask > 0.95)).mean() > 0.98
    assert mask.sum() == pytest.approx((2 * 0.95 * 0.34 * 32) ** 2, rel=0.02)


def test_the_neutral_caption_says_what_is_there_and_not_what_happens() -> None:
    assert caption(SCENE, None) == "a red square on a gray background"
    for condition in CONDITIONS.values():
        assert caption(SCENE, condition) == f"{caption(SCENE, None)} {condition.sentence}"


def test_no_two_sentences_and_no_two_shapes_are_alike() -> None:
    assert len({condition.sentence for condition in CONDITIONS.values()}) == len(CONDITIONS)
    frames = [render(Scene(subject=Thing(shape=shape, colour="red"), ground="black"), None, frames=2, height=32, width=32)[0] for shape in SHAPES]
    for place, one in enumerate(frames):
        assert all(np.abs(one.astype(int) - other).mean() > 2 for other in frames[place + 1 :])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["spin", "roll"])
def test_every_shape_shows_that_it_turns(shape: str, name: str) -> None:
    scene = Scene(subject=Thing(shape=shape, colour="red"), ground="black")
    clip = render(scene, CONDITIONS[name], frames=9, height=64, width=64)
    seen = [_reds(frame) for frame in clip]
    assert sorted((seen[0] ^ each).sum() / seen[0].sum() for each in seen[1:])[4] > 0.08


def test_a_turned_slide_goes_the_turned_way_and_a_turned_tint_has_another_hue() -> None:
    clip = render(SCENE, CONDITIONS["slide_right"].turned(30), frames=9, height=64, width=64, strength=0.5)
    (x0, y0), (x1, y1) = _middle(clip[0]), _middle(clip[-1])
    assert np.degrees(np.arctan2(y1 - y0, x1 - x0)) == pytest.approx(30, abs=2)
    straight, turned = (render(SCENE, each, **SIZE)[-1].astype(int) for each in (CONDITIONS["warm"], CONDITIONS["warm"].turned(15)))
    assert 2 < np.abs(straight - turned).mean() < 40
    assert CONDITIONS["spin"].turned(15) is CONDITIONS["spin"]


def test_of_two_events_the_first_takes_half_the_time_and_the_second_goes_on_from_there() -> None:
    slide, grey = CONDITIONS["slide_right"], CONDITIONS["grey"]
    clip = render(SCENE, then(slide, grey), frames=9, height=48, width=48)
    assert np.array_equal(clip[:5], render(SCENE, slide, frames=5, height=48, width=48))
    assert np.ptp(clip[-1].astype(int), axis=-1).max() <= 1, "grey in the end"
    moved = render(SCENE, slide, frames=2, height=48, width=48)[-1].astype(float).mean(-1)
    np.testing.assert_allclose(clip[-1, ..., 0], moved, atol=1.0)
    other = render(SCENE, then(grey, slide), frames=9, height=48, width=48)
    np.testing.assert_allclose(other[-1].astype(int), clip[-1].astype(int), atol=1)
    assert np.abs(other[4].astype(int) - clip[4].astype(int)).mean() > 5, "half way the order shows"


def test_two_events_are_said_in_their_order_and_can_be_seen() -> None:
    made = [draw_made(0, index, events=2) for index in range(260)]
    assert caption(SCENE, then(CONDITIONS["grow"], CONDITIONS["cool"])) == "a red square on a gray background turns large, then in blue light"
    assert all(each.condition.name.count(">") == 1 and len(set(each.condition.name.split(">"))) == 2 for each in made)
    behind = {each.condition.name.split(">")[1] for each in made if each.condition.name.split(">")[0] in VANISHING}
    assert behind and all(CONDITIONS[name].category in ("camera", "style") for name in behind)
    assert [each.scene for each in made[:9]] == [draw_made(0, index).scene for index in range(9)]
