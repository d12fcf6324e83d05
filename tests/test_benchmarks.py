"""Benchmarks that name parts of the project still find them. Their figures are not tested. Exercised by `make test`."""

from pathlib import Path

import numpy as np

from benchmarks import filters
from vapdata.filters import FILTERS
from vapdata.video_file import write


def test_the_filter_benchmark_measures_every_filter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "noise.mp4", rng.integers(0, 255, (12, 48, 64, 3), np.uint8), 12.0)
    with filters.ways(tmp_path) as ways:
        assert set(FILTERS) - {name.removesuffix(", tiny network") for name in ways} == {*filters.WITHOUT, "extent"}, "extent reads no frame"
        for way in ways.values():
            way(tmp_path / "noise.mp4")
