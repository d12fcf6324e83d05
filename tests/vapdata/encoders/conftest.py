"""The tiny models, made once for all encoder tests in a folder of their own, and clips to encode."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vapdata import tiny
from vapdata.clip import Caption, Sample, Sampling


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of `tiny-cogvideox`; encoders opened while the fixture lives find their weights there."""
    before = os.environ.get("VAPDATA_CACHE")
    os.environ["VAPDATA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield tiny.folder("tiny-cogvideox")
    if before is None:
        del os.environ["VAPDATA_CACHE"]
    else:
        os.environ["VAPDATA_CACHE"] = before


@pytest.fixture
def sampling() -> Sampling:
    """The tiny recipe's pixel grid."""
    return Sampling(frames=9, height=96, width=160, fps=8)


@pytest.fixture
def sample(sampling: Sampling) -> Callable[..., Sample]:
    """Makes clips of smooth moving colours; `number` decides the picture, `text` None leaves out the caption."""

    def make(number: int = 0, text: str | None = "a red circle moves right", grid: Sampling = sampling) -> Sample:
        caption = None if text is None else Caption(text=text, captioner="source", role="source")
        return Sample(clip_id=f"made/{number}", frames=moving_colours(grid, number), caption=caption)

    return make


def moving_colours(sampling: Sampling, number: int) -> np.ndarray:
    """A u8 clip (t, h, w, 3): three waves that drift."""
    t, y, x = np.meshgrid(
        np.arange(sampling.frames), np.arange(sampling.height), np.arange(sampling.width), indexing="ij"
    )
    waves = [np.sin(0.05 * (channel + 1) * x + 0.03 * y * (number + 1) + 0.3 * t + number) for channel in range(3)]
    return ((np.stack(waves, axis=-1) + 1) * 127.5).astype(np.uint8)
