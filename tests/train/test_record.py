import importlib.util
import json
from pathlib import Path

import pytest

from train.record import METRICS, Logging, Recorder, read_metrics
from vapdata.errors import CallError


def _written(folder: Path, *steps: int) -> None:
    with Recorder(folder, Logging(), steps=10, writes=True) as recorder:
        for step in steps:
            recorder.write({"step": step, "loss": 1 / (step + 1)})


def test_every_step_is_a_line_that_reads_back_exactly(tmp_path: Path) -> None:
    _written(tmp_path, 0, 1, 2)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_going_on_from_a_step_forgets_what_came_after_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    _written(tmp_path, 0, 1, 2, 3)
    with (tmp_path / METRICS).open("a") as lines:
        lines.write('{"step": 4, "lo')
    with Recorder(tmp_path, Logging(), steps=10, writes=True) as recorder:
        recorder.continue_from(2)
        recorder.write({"step": 3, "loss": 9.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)][2:] == [(2, 1 / 3), (3, 9.0)]
    assert all(json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines())


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Recorder(tmp_path, Logging(), steps=10, writes=False) as recorder:
        recorder.continue_from(0)
        recorder.write({"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_board_that_is_not_installed_is_refused_before_anything_starts() -> None:
    with pytest.raises(CallError, match="wandb is not installed. Type: pip install wandb"):
        Logging(wandb="project")
