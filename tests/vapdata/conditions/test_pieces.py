"""Pieces put back where they were give the subject again; moved ones lie where they were sent."""

import numpy as np

from vapdata.conditions.pieces import paste, pieces
from vapdata.conditions.program import Scene
from vapdata.conditions.textures import shards


def _scene(drawn):
    frames, subject = drawn
    return Scene(frames=frames, subject=subject)


def test_all_pieces_together_are_the_subject(drawn):
    scene = _scene(drawn)
    canvas = np.zeros((96, 160, 3), np.float32)
    for piece in pieces(scene, shards(np.random.default_rng(0), 96, 160, 10)):
        paste(canvas, piece, shift=(0.0, 0.0), degrees=0.0)
    assert np.allclose(canvas, scene.still * scene.subject[..., None], atol=0.01)


def test_a_moved_piece_lies_where_it_was_sent(drawn):
    first = next(pieces(_scene(drawn), np.zeros((96, 160), np.int32)))
    canvas = np.zeros((96, 160, 3), np.float32)
    paste(canvas, first, shift=(30.0, -12.0), degrees=0.0)
    rows, columns = np.nonzero(canvas.sum(-1) > 100)
    assert abs(columns.mean() - first.middle[0] - 30) < 1
    assert abs(rows.mean() - first.middle[1] + 12) < 1


def test_what_leaves_the_canvas_is_cut(drawn):
    first = next(pieces(_scene(drawn), np.zeros((96, 160), np.int32)))
    canvas = np.zeros((96, 160, 3), np.float32)
    for shift in ((500.0, 0.0), (0.0, -500.0), (-500.0, 500.0)):
        paste(canvas, first, shift=shift, degrees=30.0)
    assert canvas.max() == 0
    paste(canvas, first, shift=(70.0, 0.0), degrees=0.0)
    assert canvas[:, -1].max() > 100
