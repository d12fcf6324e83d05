"""The picture of a catalog's masks: what stands in it, and what a wrong call says."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from train import masks
from train.sheet import layout


def test_a_frame_is_dark_where_its_mask_is_low_and_untouched_where_it_is_high() -> None:
    frame = np.full((8, 8, 3), 200, np.uint8)
    np.testing.assert_array_equal(masks.overlaid(frame, np.ones((2, 2), np.float32)), frame)
    np.testing.assert_array_equal(masks.overlaid(frame, np.zeros((2, 2), np.float32)), np.full_like(frame, 30))


def test_every_clip_has_a_row_with_its_frame_the_grids_and_the_prompt(tiny_catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "masks.png"
    made = CliRunner().invoke(masks.command, ["--catalog", str(tiny_catalog), "--out", str(out), "--clips", "3"])
    assert (made.exit_code, made.stdout.strip()) == (0, str(out)), made.output
    plan = layout(3, 5, 1, (32, 32))
    with Image.open(out) as picture:
        assert picture.size == (plan.width, plan.height)
        pixels = np.asarray(picture)
    top, left = plan.strip(0), plan.groups[0][0]
    first = pixels[top : top + plan.cell[1], left : left + plan.cell[0]]
    attention = pixels[top : top + plan.cell[1], plan.groups[1][0] : plan.groups[1][0] + plan.cell[0]]
    assert first.std() > 5, "a frame is there"
    assert attention.mean() < first.mean(), "its mask darkens it"


def test_a_selection_without_clips_is_one_sentence(tiny_catalog: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(masks.command, ["--catalog", str(tiny_catalog), "--out", str(tmp_path / "x.png"), "--where", "false"])
    assert made.exit_code == 2 and "--where" in made.output and "Traceback" not in made.output


@pytest.mark.parametrize("where", ["no_such_column > 1"])
def test_a_wrong_predicate_is_one_sentence(tiny_catalog: Path, tmp_path: Path, where: str) -> None:
    made = CliRunner().invoke(masks.command, ["--catalog", str(tiny_catalog), "--out", str(tmp_path / "x.png"), "--where", where])
    assert made.exit_code == 2 and "no_such_column" in made.output
