"""The contact sheet: one row per sample, one group of frames per video in it. Arrays in, picture out; nothing is read or written.

    group titles         reference        target          result
    row: label and text  [] [] [] []      [] [] [] []     [] [] [] []

Exercised by `pytest tests/train/test_sheet.py`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vapdata.errors import CallError

LONGEST, SHORTEST = 240, 160
"""Longest side of a shown frame: larger pictures are shrunk to the first, smaller ones enlarged by a whole factor towards the second."""
MARGIN, FRAME_GAP, GROUP_GAP, ROW_GAP = 24, 4, 28, 22
HEADER, LINE = 44, 24
"""Height of the band with the groups' titles, and of one of a row's two lines of text."""
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE, NUMBER_SIZE = 22, 17, 15, 14
"""Pixels where frames are `SHORTEST` long; everything grows with them, so that a sheet reads alike when it is shrunk to a screen."""
PAPER, INK, PALE, RULE, EMPTY = (255, 255, 255), (24, 24, 27), (113, 113, 122), (212, 212, 216), (244, 244, 245)
ELLIPSIS = "…"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample."""

    label: str
    """What tells it from the others, e.g. its clip id."""
    text: str
    """Its prompt; one line is shown."""
    videos: tuple[UInt8[np.ndarray, "_ _ _ 3"] | None, ...]
    """One per group, RGB, frames first; None leaves the group's place empty. All have one size; a picture is a video of one frame."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything stands, pixels."""

    width: int
    height: int
    scale: float
    """What the sizes at the head of this file are multiplied by."""
    cell: tuple[int, int]
    """Width and height of a shown frame."""
    groups: tuple[tuple[int, ...], ...]
    """Left edges of the frames of each group."""
    rows: tuple[int, ...]
    """Top of each row's two lines of text; its frames stand below them."""

    def strip(self, row: int) -> int:
        """Top edge of the frames of a row."""
        return self.rows[row] + 2 * self.px(LINE)

    def px(self, size: float) -> int:
        """One of the sizes at the head of this file, on this sheet."""
        return round(size * self.scale)


def layout(rows: int, groups: int, frames: int, size: tuple[int, int]) -> Layout:
    """The layout of a sheet whose videos are `size` = (height, width) pixels and show `frames` frames each."""
    cell = shown_size(size)
    scale = max(1.0, max(cell) / SHORTEST)
    margin, header, line, frame_gap, group_gap, row_gap = (round(each * scale) for each in (MARGIN, HEADER, LINE, FRAME_GAP, GROUP_GAP, ROW_GAP))
    group = frames * cell[0] + (frames - 1) * frame_gap
    row = 2 * line + cell[1] + row_gap
    first = margin + header + row_gap // 2
    return Layout(
        width=2 * margin + groups * group + (groups - 1) * group_gap,
        height=first + rows * row - row_gap + margin,
        scale=scale,
        cell=cell,
        groups=tuple(tuple(margin + place * (group + group_gap) + frame * (cell[0] + frame_gap) for frame in range(frames)) for place in range(groups)),
        rows=tuple(first + number * row for number in range(rows)),
    )


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which a video of (height, width) is shown: aspect kept, small ones enlarged by a whole factor."""
    height, width = size
    longest = max(height, width)
    if longest > LONGEST:
        return max(1, round(width * LONGEST / longest)), max(1, round(height * LONGEST / longest))
    factor = max(1, SHORTEST // longest)
    return width * factor, height * factor


def picked(length: int, count: int) -> list[int]:
    """`count` frame numbers evenly over `length` frames, the first and the last among them; all where there are fewer."""
    count = min(count, length)
    return [round(place * (length - 1) / max(1, count - 1)) for place in range(count)]


def sheet(titles: Sequence[str], rows: Sequence[Row], *, frames: int = 4) -> Image.Image:
    """The contact sheet, RGB. Raises CallError without rows, or for videos of several sizes."""
    size = _size(titles, rows)
    plan = layout(len(rows), len(titles), frames, size)
    image = Image.new("RGB", (plan.width, plan.height), PAPER)
    draw = ImageDraw.Draw(image)
    _header(draw, plan, titles, [_numbers(rows, group, frames) for group in range(len(titles))])
    for number, row in enumerate(rows):
        _row(image, draw, plan, number, row, frames)
    return image


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """`text` on one line, cut at a word where it can be, with an ellipsis when it is wider than `width` pixels."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    line = line[: bisect_right(range(1, len(line)), width, key=lambda kept: font.getlength(line[:kept] + ELLIPSIS))]
    space = line.rfind(" ")
    return line[: space if space > len(line) * 0.6 else len(line)].rstrip(" ,.;:") + ELLIPSIS


def _size(titles: Sequence[str], rows: Sequence[Row]) -> tuple[int, int]:
    if not rows or not titles:
        raise CallError("a contact sheet needs a row and a group; got none. Sample at least one pair: --pairs 1")
    wrong = [row.label for row in rows if len(row.videos) != len(titles)]
    if wrong:
        raise CallError(f"contact sheet: {wrong[0]} has another number of videos than the {len(titles)} groups {', '.join(titles)}. Pass None for one that is not there.")
    sizes = {video.shape[1:3] for row in rows for video in row.videos if video is not None}
    if len(sizes) != 1:
        raise CallError(f"contact sheet: videos of one size wanted, got (height, width) {sorted(sizes)}. Make a sheet for each size.")
    return sizes.pop()


def _numbers(rows: Sequence[Row], group: int, frames: int) -> list[int]:
    """Frame numbers that head a group's columns, from 1; none when its videos differ in length, or are pictures."""
    lengths = {len(video) for row in rows if (video := row.videos[group]) is not None}
    length = lengths.pop() if len(lengths) == 1 else 1
    return [place + 1 for place in picked(length, frames)] if length > 1 else []


def _header(draw: ImageDraw.ImageDraw, plan: Layout, titles: Sequence[str], numbers: Sequence[Sequence[int]]) -> None:
    heading, small = _font(plan.px(TITLE_SIZE)), _font(plan.px(NUMBER_SIZE))
    rule = plan.px(MARGIN + HEADER - 8)
    for title, lefts, places in zip(titles, plan.groups, numbers, strict=True):
        draw.text((lefts[0], rule - plan.px(8)), title, INK, font=heading, anchor="ls")
        draw.line([(lefts[0], rule), (lefts[-1] + plan.cell[0] - 1, rule)], RULE, width=plan.px(2))
        taken = lefts[0] + heading.getlength(title) + plan.px(8)
        for number, left in zip(places, lefts, strict=False):
            words, right = f"frame {number}" if number == 1 else str(number), left + plan.cell[0]
            if right - small.getlength(words) > taken:
                draw.text((right - 1, rule - plan.px(7)), words, PALE, font=small, anchor="rs")


def _row(image: Image.Image, draw: ImageDraw.ImageDraw, plan: Layout, number: int, row: Row, frames: int) -> None:
    left, top, strip = plan.groups[0][0], plan.rows[number], plan.strip(number)
    for text, size, colour, bottom in ((row.text, TEXT_SIZE, INK, LINE - 6), (row.label, LABEL_SIZE, PALE, 2 * LINE - 9)):
        font = _font(plan.px(size))
        draw.text((left, top + plan.px(bottom)), shortened(text, font, plan.width - 2 * left), colour, font=font, anchor="ls")
    for video, lefts in zip(row.videos, plan.groups, strict=True):
        if video is None:
            _empty(draw, plan, lefts, strip)
            continue
        for place, x in zip(picked(len(video), frames), lefts, strict=False):
            image.paste(_shown(video[place], plan.cell), (x, strip))


def _empty(draw: ImageDraw.ImageDraw, plan: Layout, lefts: Sequence[int], top: int) -> None:
    right, bottom = lefts[-1] + plan.cell[0] - 1, top + plan.cell[1] - 1
    draw.rectangle([(lefts[0], top), (right, bottom)], EMPTY)
    draw.text(((lefts[0] + right) / 2, (top + bottom) / 2), "none", PALE, font=_font(plan.px(TEXT_SIZE)), anchor="mm")


def _shown(frame: UInt8[np.ndarray, "h w 3"], cell: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if picture.size == cell:
        return picture
    enlarged = cell[0] > picture.size[0]
    return picture.resize(cell, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that a sheet looks the same on every machine."""
    return ImageFont.load_default(size)
