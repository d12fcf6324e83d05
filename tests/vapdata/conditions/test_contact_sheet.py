"""A contact sheet has a row per clip, with its first and its last frame."""

import numpy as np

from vapdata.conditions.contact_sheet import GAP, NAME_WIDTH, contact_sheet


def test_rows_and_columns_hold_what_was_asked():
    ramp = np.stack([np.full((48, 64, 3), 25 * k, np.uint8) for k in range(9)])
    sheet = contact_sheet([("a", ramp), ("a long name that is made smaller", ramp[:5])], columns=3, height=24)
    assert sheet.shape == (2 * (24 + GAP), NAME_WIDTH + GAP + 3 * (32 + GAP) - GAP, 3)
    middles = [NAME_WIDTH + 16 + k * (32 + GAP) for k in range(3)]
    assert [int(sheet[12, x, 0]) for x in middles] == [0, 100, 200]
    assert [int(sheet[24 + GAP + 12, x, 0]) for x in middles] == [0, 50, 100]


def test_clips_of_other_shapes_are_scaled_to_one_height():
    sheet = contact_sheet([("wide", np.zeros((4, 40, 120, 3), np.uint8)), ("tall", np.zeros((2, 120, 40, 3), np.uint8))], columns=2, height=30)
    assert sheet[33 + 15, -5].tolist() == [255, 255, 255], "a narrower row ends in white"
