"""Fingerprints: hand-computed parts, what they do not see, what they tell apart."""

import numpy as np
import pytest
from scipy.fft import dctn

from vapdata.clip import Sample
from vapdata.errors import MissingInput
from vapdata.filters.fingerprint import Fingerprint, difference, frame_code, summaries

SHAPE = (90, 160)


def _picture(seed: int) -> np.ndarray:
    """Smooth blotches, as photographs have."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (6, 10, 3))
    rows, columns = np.linspace(0, 5, SHAPE[0]), np.linspace(0, 9, SHAPE[1])
    across = np.stack([[np.interp(columns, np.arange(10), row[:, c]) for row in small] for c in range(3)], axis=-1)
    down = np.stack([[np.interp(rows, np.arange(6), across[:, x, c]) for x in range(SHAPE[1])] for c in range(3)], axis=-1)
    return down.transpose(1, 0, 2).round().astype(np.uint8)


def test_the_bits_are_the_signs_of_the_lowest_cosine_frequencies() -> None:
    frame = np.repeat(np.random.default_rng(0).integers(0, 256, (32, 32, 1), np.uint8), 3, axis=2)  # 32 x 32 already: nothing is averaged
    low = dctn(frame[..., 0].astype(np.float64), norm="ortho")[:8, :8].ravel()[1:]
    code = frame_code(frame)
    assert code[0] == round(float(frame[..., 0].std()))
    assert np.unpackbits(code[1:], count=63).tolist() == (low > np.median(low)).astype(int).tolist()


def _noisy(frame: np.ndarray) -> np.ndarray:
    return np.clip(frame + np.random.default_rng(1).normal(0, 4, frame.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [lambda frame: (frame * 0.9).astype(np.uint8), lambda frame: frame[::2, ::2], _noisy])
def test_brightness_size_and_noise_hardly_matter(change: object) -> None:
    codes = [np.stack([frame_code(picture) for picture in pictures]) for pictures in ([_picture(k) for k in range(4)], [change(_picture(k)) for k in range(4)])]
    assert difference(*codes) < 0.05


def test_other_pictures_differ_in_half_of_their_bits() -> None:
    one, other = (np.stack([frame_code(_picture(k)) for k in range(start, start + 4)]) for start in (0, 10))
    assert difference(one, other) > 0.25
    assert difference(one, one) == 0.0


def test_trimmed_frames_cost_nothing_and_order_is_that_of_the_shorter() -> None:
    whole = np.stack([frame_code(_picture(k)) for k in range(6)])
    assert difference(whole[2:4], whole) == difference(whole, whole[2:4]) == 0.0


def test_frames_that_show_nothing_do_not_count() -> None:
    black = np.zeros((3, 9), np.uint8)
    shown = np.stack([frame_code(_picture(k)) for k in range(3)])
    assert summaries(black).shape == (0, 63)
    assert difference(np.concatenate([black, shown]), shown) == 0.0
    np.testing.assert_allclose(np.linalg.norm(summaries(shown), axis=1), [1], rtol=1e-6)
    assert summaries(np.concatenate([shown] * 6)).shape == (2, 63), "18 frames are two stretches"
    with pytest.raises(ValueError, match="cannot be compared"):
        difference(black, shown)


def test_the_step_writes_one_cell_per_clip_or_says_why_not() -> None:
    opened = Fingerprint().open()
    full, empty = (Sample(clip_id=name, frames=frames) for name, frames in (("d/a", np.stack([_picture(0)] * 5)), ("d/b", np.zeros((0, 4, 4, 3), np.uint8))))
    answers = opened.judge([full, empty])
    (cell,) = answers["d/a"].cells
    assert (cell.product, cell.shape, cell.data.dtype) == ("fingerprint-8x8", (5, 9), np.uint8)
    assert isinstance(answers["d/b"].failure, MissingInput)
