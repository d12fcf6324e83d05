"""What masks are worth, by hand, and for the CLIP that ships."""

import numpy as np
import pytest

from train.miniature import masks


def test_pointing_and_overlap_by_hand() -> None:
    covered = np.zeros((2, 3, 3), np.float32)
    covered[:, 0, :2] = 1
    hit, miss = np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    hit[0, 0], miss[2, 2] = 1, 1
    grids = np.stack([hit, miss])
    assert masks.pointing(grids, covered) == 0.5
    assert masks.iou(grids, covered) == pytest.approx((1 / 2 + 0) / 2)
    assert masks.iou(covered, covered) == 1


@pytest.mark.slow
def test_the_clip_that_ships_points_at_what_a_caption_names() -> None:
    judge = masks.Judge(masks.scenes(11, 60))
    found = {each.kind: each for each in judge.found()}
    print(found, judge.prompted())
    assert found["attention"].pointing > 0.55 > 5 * found["chance"].pointing
    prompted = judge.prompted()
    assert prompted.right - prompted.shuffled > 0.12
