"""The nearest rendered condition: right for what was rendered, and fair to what was not."""

import numpy as np
import pytest

from train.miniature.scoring import Seen, orders, score, seen
from vapdata.scenes import CONDITIONS, Scene, Thing, render

SCENE = Scene(subject=Thing(shape="triangle", colour="blue", x=0.05, y=-0.1), ground="pink", stripes=0.3)
GRID = {"frames": 9, "height": 32, "width": 32}


def test_every_rendered_condition_is_recognised() -> None:
    for name, condition in CONDITIONS.items():
        found = seen(SCENE, name, render(SCENE, condition, **GRID, strength=1.1))
        assert found.nearest == name
        assert (found.nearest_but_fade == name) == (name != "fade")


def test_noise_of_a_tenth_of_the_range_changes_no_answer() -> None:
    random = np.random.default_rng(0)
    wrong = []
    for name, condition in list(CONDITIONS.items())[::4]:
        frames = render(SCENE, condition, **GRID) + random.normal(0, 25, (9, 32, 32, 3))
        wrong += [name] if seen(SCENE, name, np.clip(frames, 0, 255).astype(np.uint8)).nearest != name else []
    assert wrong == []


def test_a_still_clip_shows_none_of_the_conditions_that_are_asked_for_perfectly() -> None:
    found = seen(SCENE, "slide_right", render(SCENE, None, **GRID))
    assert found.psnr_db < 30
    assert seen(SCENE, "slide_right", render(SCENE, CONDITIONS["slide_right"], **GRID)).psnr_db > 60


def test_answers_may_be_few() -> None:
    frames = render(SCENE, CONDITIONS["slide_up"], **GRID)
    assert seen(SCENE, "grow", frames, {name: CONDITIONS[name] for name in ("grow", "slide_down")}).nearest in ("grow", "slide_down")


@pytest.mark.parametrize("name", ["slide_right>grey", "grow>pan_left", "warm>dissolve", "tilt_up>flood"])
def test_two_events_are_told_from_the_other_order_and_from_either_alone(name: str) -> None:
    asked = orders(name)
    first, second = name.split(">")
    assert list(asked) == [name, f"{second}>{first}", first, second]
    for each, condition in asked.items():
        assert seen(SCENE, each, render(SCENE, condition, **GRID, strength=1.1), asked).nearest == each


def test_shares_are_of_all_clips_and_of_those_that_do_not_fade() -> None:
    def one(wanted: str, nearest: str, but_fade: str) -> Seen:
        return Seen(wanted=wanted, nearest=nearest, nearest_but_fade=but_fade, psnr_db=20.0)

    found = score([one("fade", "fade", "melt"), one("melt", "fade", "melt"), one("spin", "melt", "melt")])
    assert (found.clips, found.accuracy, found.but_fade, found.psnr_db) == (3, pytest.approx(1 / 3), 0.5, 20.0)
    assert score([]).accuracy is None
