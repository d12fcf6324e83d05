"""The contact sheet: where everything stands, what is shown, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFont

from train import sheet as sheets
from train.sheet import Row, layout, picked, sheet, shortened, shown_size
from vapdata.errors import CallError

SIZES = [(96, 160), (480, 720), (480, 832), (720, 480), (32, 48), (96, 96)]


def video(colour: tuple[int, int, int], frames: int = 9, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """Frames of one colour, a shade darker with each."""
    made = np.empty((frames, *size, 3), np.uint8)
    for number in range(frames):
        made[number] = [max(0, channel - number) for channel in colour]
    return made


def row(*videos: np.ndarray | None, text: str = "a ball rolls", label: str = "synthetic/1") -> Row:
    return Row(label=label, text=text, videos=videos)


@pytest.mark.parametrize("size", SIZES)
def test_frames_groups_and_rows_do_not_touch_and_lie_inside(size: tuple[int, int]) -> None:
    plan = layout(3, 3, 4, size)
    width, height = plan.cell
    lefts = [left for group in plan.groups for left in group]
    assert all(second - first > width for first, second in pairwise(lefts))
    assert plan.groups[1][0] - plan.groups[0][-1] - width > plan.groups[0][1] - plan.groups[0][0] - width, "groups stand further apart than frames"
    assert lefts[0] == plan.width - (lefts[-1] + width), "left and right margin are alike"
    bottoms = [plan.strip(number) + height for number in range(3)]
    assert all(bottom < top for bottom, top in zip(bottoms, plan.rows[1:], strict=False))
    assert plan.height - bottoms[-1] == lefts[0], "so is the lower margin"


def test_the_numbers_of_a_small_sheet() -> None:
    plan = layout(2, 3, 4, (96, 160))
    assert plan.scale == 1 and plan.cell == (160, 96)
    assert plan.groups[0] == (24, 188, 352, 516)
    assert plan.groups[1][0] == 516 + 160 + 28
    assert plan.rows == (79, 79 + 48 + 96 + 22)
    assert plan.strip(0) == 79 + 48
    assert (plan.width, plan.height) == (2 * 24 + 3 * (4 * 160 + 3 * 4) + 2 * 28, 79 + 2 * 166 - 22 + 24)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((96, 160), (160, 96)), ((480, 720), (240, 160)), ((480, 832), (240, 138)), ((720, 480), (160, 240)), ((32, 48), (144, 96)), ((160, 96), (96, 160))],
)
def test_large_videos_are_shrunk_and_small_ones_enlarged_by_a_whole_factor(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(size) == shown


def test_text_grows_with_the_frames() -> None:
    assert layout(1, 3, 4, (480, 720)).px(sheets.TEXT_SIZE) == round(1.5 * sheets.TEXT_SIZE)


@pytest.mark.parametrize(("length", "count", "wanted"), [(9, 4, [0, 3, 5, 8]), (49, 4, [0, 16, 32, 48]), (1, 3, [0]), (5, 1, [0]), (3, 4, [0, 1, 2])])
def test_shown_frames_are_spread_evenly_with_the_first_and_the_last(length: int, count: int, wanted: list[int]) -> None:
    assert picked(length, count) == wanted


def test_every_frame_stands_where_the_layout_says_with_its_own_pixels() -> None:
    videos = (video((250, 20, 20)), video((20, 250, 20)), video((20, 20, 250)))
    image = np.asarray(sheet(("reference", "target", "result"), [row(*videos), row(*videos[::-1])]))
    plan = layout(2, 3, 4, (96, 160))
    assert image.shape == (plan.height, plan.width, 3)
    for number, shown in enumerate((videos, videos[::-1])):
        for clip, lefts in zip(shown, plan.groups, strict=True):
            for frame, left in zip((0, 3, 5, 8), lefts, strict=True):
                top = plan.strip(number)
                assert (image[top : top + 96, left : left + 160] == clip[frame]).all()


@pytest.mark.slow
def test_text_stays_above_its_row_and_inside_the_margins() -> None:
    image = np.asarray(sheet(("reference", "result"), [row(video((0, 0, 0)), video((0, 0, 0)), text="word " * 400, label="x" * 4000)]))
    plan = layout(1, 2, 4, (96, 160))
    inked = np.argwhere(image.min(axis=2) < 200)
    assert inked[:, 1].min() >= sheets.MARGIN - 1
    assert inked[:, 1].max() < plan.width - sheets.MARGIN + 1
    text = image[plan.rows[0] : plan.strip(0)]
    assert (text < 200).any(), "there is text"
    assert (image[plan.strip(0) - 3 : plan.strip(0)] == 255).all(), "and it does not touch the frames"


def test_a_long_text_is_cut_at_a_word_and_a_short_one_is_not() -> None:
    font = ImageFont.load_default(17)
    assert shortened("a  red\nball", font, 500) == "a red ball"
    cut = shortened("a red ball rolls over the table", font, 150)
    assert cut.endswith("…") and font.getlength(cut) <= 150
    assert "a red ball rolls over the table".startswith(cut[:-1]) and cut[:-1].split()[-1] in "a red ball rolls over the table".split()


def test_a_video_that_is_not_there_leaves_a_marked_place() -> None:
    image = np.asarray(sheet(("reference", "target"), [row(video((9, 9, 9)), None)]))
    plan = layout(1, 2, 4, (96, 160))
    place = image[plan.strip(0) : plan.strip(0) + 96, plan.groups[1][0] : plan.groups[1][-1] + 160]
    assert (place[0, 0] == sheets.EMPTY).all() and (place < 150).any()


def test_a_picture_is_shown_once() -> None:
    image = np.asarray(sheet(("image", "result"), [row(video((9, 9, 9), 1), video((9, 9, 9), 9))]))
    plan = layout(1, 2, 4, (96, 160))
    strip = image[plan.strip(0) : plan.strip(0) + 96]
    assert (strip[:, plan.groups[0][0] : plan.groups[0][0] + 160] == 9).all()
    assert (strip[:, plan.groups[0][1] : plan.groups[0][-1] + 160] == 255).all()


def test_videos_may_differ_in_length() -> None:
    assert sheet(("a", "b"), [row(video((9, 9, 9), 9), video((9, 9, 9), 16))]).size[0] > 0


def test_equal_input_gives_equal_pixels() -> None:
    first, second = (sheet(("a",), [row(video((9, 90, 9)))]) for _ in range(2))
    assert isinstance(first, Image.Image) and first.tobytes() == second.tobytes()


def test_no_rows_several_sizes_and_a_wrong_number_of_videos_are_refused_in_one_sentence() -> None:
    with pytest.raises(CallError, match="got none"):
        sheet(("a",), [])
    with pytest.raises(CallError, match=r"one size wanted, got .*\(96, 160\), \(480, 720\)"):
        sheet(("a", "b"), [row(video((1, 1, 1)), video((1, 1, 1), size=(480, 720)))])
    with pytest.raises(CallError, match="synthetic/1 has another number of videos than the 2 groups a, b"):
        sheet(("a", "b"), [row(video((1, 1, 1)))])
