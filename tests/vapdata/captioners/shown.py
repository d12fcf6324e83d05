"""Clips for tests of captioners: a few frames with their times, other for each number. Imported by these tests."""

import numpy as np

from vapdata.clip import Look, Sample


def sample(number: int, *, seconds: float = 2.0, frames: int = 4, height: int = 48, width: int = 80) -> Sample:
    """Clip `d/<number>`: a bright square that moves over coloured noise drawn from the number."""
    draw = np.random.default_rng(number)
    scene = np.repeat(np.repeat(draw.integers(0, 200, (height // 8, width // 8, 3), np.uint8), 8, 0), 8, 1)
    film = np.stack([scene] * frames)
    for k in range(frames):
        film[k, 8:24, 8 + 8 * k : 24 + 8 * k] = 255
    return Sample(clip_id=f"d/{number}", frames=film, times_s=tuple(Look(least=frames, most=frames).times(seconds)))
