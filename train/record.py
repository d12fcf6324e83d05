"""What a run writes down about itself: metrics.jsonl always; a progress line, TensorBoard and Weights & Biases where wanted.

metrics.jsonl has one JSON object for step 0 (its evaluation) and for each optimiser step, in order and each once, across
stops and resumes too. Rates are over all processes.

    step             optimiser steps that lie behind
    loss             mean over the true samples of the global batch, at the weights before the update
    grad_norm        global norm of the gradient before clipping
    lr  epoch        learning rate of the step; times that all samples were taken before, from 0
    samples          true samples of the step; zero-weight fill-ins are not counted
    seconds          from the end of the step before to the update, without evaluations, checkpoints and samples
    samples_per_s  tokens_per_s      samples and video tokens (targets' and references') per second
    wait_share       share of `seconds` in which a process stood still for the loader, on average
    mb_per_s         10^6 bytes of tensors that were read, per second
    peak_memory_gb   10^9 bytes, of this process: the GPU's allocator at its peak, or resident memory without a GPU
    model_tflops     10^12 operations that the step's samples cost, see train/flops.py
    mfu              share of the GPU's peak that this is; absent where the peak is not known

and where the step was evaluated, on the fixed grid of train/evaluate.py:

    eval_loss        mean over the grid
    eval_drop  eval_drop_se          mean paired drop of the loss since step 0, and its standard error over the entries
    eval_loss_at     timestep -> mean loss
    eval_loss_shuffled               the same with references exchanged (methods with references; so the next two)
    eval_reference_gain  eval_reference_gain_se     paired: how much worse exchanged references are, and its standard error
    reference_sensitivity            relative change of the output when references are exchanged

Exercised by `pytest tests/train/test_record.py`.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vapdata.errors import CallError, RunError

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Where numbers go besides metrics.jsonl."""

    tensorboard: bool = False
    """Event files in the run's folder, under tensorboard/ (pip install tensorboard)."""
    wandb: str = ""
    """Project on Weights & Biases (pip install wandb); empty for none."""
    peak_tflops: float = 0.0
    """The device's peak in 10^12 floating-point operations per second at the compute type, for `mfu`; 0: by the GPU's name."""

    def __post_init__(self) -> None:
        for wanted, package in ((self.tensorboard, "tensorboard"), (bool(self.wandb), "wandb")):
            if wanted and importlib.util.find_spec(package) is None:
                raise CallError(f"logging: {package} is not installed. Type: pip install {package}, or --set logging.{package}={'false' if package == 'tensorboard' else ''}")


class Recorder:
    """One run's numbers on their way to disk. Only rank 0 has one that writes."""

    def __init__(self, folder: Path, logging: Logging, *, steps: int, writes: bool) -> None:
        self._path = folder / METRICS
        self._writes = writes
        self._progress = _progress(steps) if writes and sys.stderr.isatty() else None
        self._board: Any = None
        self._wandb: Any = None
        if writes and logging.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))
        if writes and logging.wandb:
            import wandb

            self._wandb = wandb.init(project=logging.wandb, dir=str(folder), name=folder.name, resume="allow", id=folder.name)

    def __enter__(self) -> "Recorder":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def continue_from(self, step: int) -> None:
        """Forgets every line after `step`, and a line that was cut off: these steps are made again."""
        if not self._writes or not self._path.exists():
            return
        kept = [line for line in self._path.read_text().splitlines() if (row := _row(line)) is not None and row["step"] <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        os.replace(partial, self._path)

    def write(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, on disk when this returns; numbers go to the other places too."""
        if not self._writes:
            return
        try:
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror}). Free the disk and go on with --resume") from error
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=row["step"])
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=row["step"], said=_said(row))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order; a last line that was cut off is left out."""
    lines = (folder / METRICS).read_text().splitlines()
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _progress(steps: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"), console=Console(stderr=True))
    progress.add_task("step", total=steps, said="")
    return progress


def _said(row: Mapping[str, Any]) -> str:
    shown = [f"{name} {row[name]:.4g}" for name in ("loss", "eval_loss", "samples_per_s", "wait_share") if name in row]
    return "  ".join(shown)
