"""The loss on a fixed grid: the same clips, timesteps and noise at every evaluation, so that two of them can be compared.

A grid entry is (sample, timestep, seed). What is reported is the mean loss, its mean paired drop since step 0
with the standard error over the entries, the mean per timestep, and, for methods with references, the same loss
with the references exchanged: a method that ignores its reference shows no difference there.
Exercised by `pytest tests/train/test_evaluate.py`.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from train.batch import Batch
from train.data import Loader
from train.method import Objective
from train.objective import seed_of
from train.parallel import Layout
from vapdata.errors import CallError

BASELINE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How large the grid is and when it is asked. The first and the last step are always evaluated."""

    every: int = 500
    """Steps between evaluations; 0 for the first and last alone."""
    samples: int = 16
    """Validation samples on the grid, at most."""
    timesteps: int = 8
    """Timesteps per sample: the mid-points of equal parts of the range."""
    batch: int = 0
    """Entries per forward pass; 0 for the run's micro-batch."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.samples < 1 or self.timesteps < 1 or self.batch < 0:
            raise CallError(f"evaluation: got {self}; every is 0 or more, samples and timesteps 1 or more. Type e.g. --set evaluation.samples=16")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of the grid."""

    sample: int
    """Number of the sample in the index."""
    timestep: float
    seed: int


class Evaluator:
    """Asks one run's module, and remembers what it answered at step 0. Every process asks a share of the grid."""

    def __init__(self, evaluation: Evaluation, module: nn.Module, loader: Loader, objective: Objective, layout: Layout, *, seed: int, folder: Path) -> None:
        """`module` as the layout has spread it."""
        self._module, self._loader, self._objective, self._layout, self._world, self._folder = module, loader, objective, layout, layout.world, folder
        samples, index = loader.index.validation, loader.index
        self.entries = grid(evaluation, samples, [index.samples[sample].target for sample in samples], objective, seed)
        self._size = evaluation.batch or loader.micro_batch
        self._first = torch.zeros(len(self.entries), dtype=torch.float64)

    def begin(self) -> dict[str, Any]:
        """The evaluation at step 0, kept in the run's folder: later ones are compared with it."""
        with self._asking():
            self._first = self._losses(shuffled=False)
            self._world.first_alone(lambda: save_baseline(self._folder, self.entries, self._first))
            return self._row(self._first)

    def go_on(self) -> None:
        """Reads the evaluation at step 0. Raises CallError when it is not there, or of another grid."""
        self._first = load_baseline(self._folder, self.entries)

    @property
    def first(self) -> dict[str, Any]:
        """What was known at step 0."""
        return summary(self._first, self._first, self.entries)

    def now(self) -> dict[str, Any]:
        """The evaluation of the module as it is; see train/record.py for what the numbers mean."""
        with self._asking():
            return self._row(self._losses(shuffled=False))

    def _row(self, now: Tensor) -> dict[str, Any]:
        said = summary(now, self._first, self.entries)
        if not self._loader.references:
            return said
        exchanged = self._losses(shuffled=True)
        gain, error = paired(exchanged - now)
        device = self._world.device
        sensitivity = reference_sensitivity(self.entries, self._module, self._loader, self._objective, device=device, batch=self._size)
        return {**said, "eval_loss_shuffled": exchanged.mean().item(), "eval_reference_gain": gain, "eval_reference_gain_se": error, "reference_sensitivity": sensitivity}

    def _losses(self, *, shuffled: bool) -> Tensor:
        own = losses(
            self.entries,
            self._module,
            self._loader,
            device=self._world.device,
            batch=self._size,
            bucket=self._loader.index.samples.bucket,
            rank=self._layout.data_rank,
            ranks=self._layout.data_ranks,
            in_step=self._layout.in_step,
            shuffled=shuffled,
        )
        return torch.tensor(self._world.total((own * self._layout.counts).tolist()), dtype=torch.float64)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """The module in eval mode, and back as it was."""
        was = self._module.training
        self._module.eval()
        try:
            yield
        finally:
            self._module.train(was)


def grid(evaluation: Evaluation, samples: Sequence[int], targets: Sequence[str], objective: Objective, seed: int) -> list[Entry]:
    """The grid over (at most `evaluation.samples` of) `samples`, evenly picked, whose targets' clip ids are `targets`."""
    count = min(evaluation.samples, len(samples))
    picked = [round(place * (len(samples) - 1) / max(1, count - 1)) for place in range(count)]
    timesteps = [float(each) for each in objective.grid(evaluation.timesteps)]
    return [
        Entry(sample=samples[place], timestep=timestep, seed=seed_of(seed, -1 - number, 0, targets[place]))
        for place in picked
        for number, timestep in enumerate(timesteps)
    ]


@torch.no_grad()
def losses(
    entries: Sequence[Entry],
    module: nn.Module,
    loader: Loader,
    *,
    device: torch.device,
    batch: int,
    bucket: Callable[[int], object],
    rank: int = 0,
    ranks: int = 1,
    in_step: bool = False,
    shuffled: bool = False,
) -> Float[Tensor, " entries"]:
    """The loss of every entry, float64; with `ranks`, this rank's are filled in and the others' are 0, so that a sum makes all.

    `bucket` gives what the samples of one batch must have in common. `in_step`: every rank asks the module equally often,
    for what is not its own too, where there is not enough for all. `shuffled` exchanges the references.
    """
    found = torch.zeros(len(entries), dtype=torch.float64)
    batches = _batches(entries, batch, bucket)
    own = batches[rank::ranks]
    missing = -(-len(batches) // ranks) - len(own) if in_step else 0
    for turn, places in enumerate([*own, *[batches[0]] * missing]):
        made = _batch([entries[place] for place in places], loader, shuffled=shuffled).to(device)
        losses = module(made).double().cpu()
        if turn < len(own):
            found[torch.tensor(places)] = losses
    return found


@torch.no_grad()
def reference_sensitivity(entries: Sequence[Entry], module: Any, loader: Loader, objective: Objective, *, device: torch.device, batch: int) -> float:
    """||out(references) - out(exchanged references)|| / ||out(references)|| over the grid's first entries: 0 when they are ignored."""
    some = [entry for entry in entries if entry.sample == entries[0].sample][:batch]
    outputs = []
    for shuffled in (False, True):
        made = _batch(some, loader, shuffled=shuffled).to(device)
        noisy = objective.noisy(made.target.video, made.noise, made.timesteps)
        outputs.append(module.predict(noisy, made.timesteps, made.target, made.references).float())
    return float((outputs[0] - outputs[1]).norm() / outputs[0].norm().clamp_min(1e-12))


def summary(now: Float[Tensor, " entries"], first: Float[Tensor, " entries"], entries: Sequence[Entry]) -> dict[str, Any]:
    """`eval_loss`, `eval_drop`, `eval_drop_se` (paired, since step 0) and `eval_loss_at`: timestep -> mean loss."""
    drop, error = paired(first - now)
    at: dict[str, list[float]] = {}
    for entry, value in zip(entries, now.tolist(), strict=True):
        at.setdefault(f"{entry.timestep:g}", []).append(value)
    return {"eval_loss": now.mean().item(), "eval_drop": drop, "eval_drop_se": error, "eval_loss_at": {key: sum(values) / len(values) for key, values in at.items()}}


def paired(differences: Float[Tensor, " n"]) -> tuple[float, float]:
    """Mean of paired differences and its standard error, sqrt(s^2 / n) with s^2 over n - 1; the error is 0 for one entry."""
    count = len(differences)
    error = math.sqrt(float(differences.var(correction=1)) / count) if count > 1 else 0.0
    return float(differences.mean()), error


def save_baseline(folder: Path, entries: Sequence[Entry], first: Float[Tensor, " entries"]) -> None:
    """Writes the grid and its losses at step 0, to full precision, so that a resumed run compares with the same."""
    rows = [{"sample": each.sample, "timestep": each.timestep, "seed": each.seed, "loss": loss} for each, loss in zip(entries, first.tolist(), strict=True)]
    partial = folder / f".{BASELINE}.partial"
    partial.write_text(json.dumps(rows, indent=0))
    os.replace(partial, folder / BASELINE)


def load_baseline(folder: Path, entries: Sequence[Entry]) -> Float[Tensor, " entries"]:
    """The losses at step 0. Raises CallError when the grid on disk is another one."""
    path = folder / BASELINE
    if not path.is_file():
        raise CallError(f"{path} is not there: this run's first evaluation is lost, so its drop cannot be told. Start anew: give another --out")
    rows: list[Mapping[str, Any]] = json.loads(path.read_text())
    if [(row["sample"], row["timestep"], row["seed"]) for row in rows] != [(each.sample, each.timestep, each.seed) for each in entries]:
        raise CallError(f"{path} holds another evaluation grid than this run's settings make. Leave evaluation.* and --seed as they were, or give another --out")
    return torch.tensor([row["loss"] for row in rows], dtype=torch.float64)


def _batches(entries: Sequence[Entry], size: int, bucket: Callable[[int], object]) -> list[list[int]]:
    """Places of the entries, in batches of one bucket each."""
    alike: dict[object, list[int]] = {}
    for place, entry in enumerate(entries):
        alike.setdefault(bucket(entry.sample), []).append(place)
    return [places[start : start + size] for places in alike.values() for start in range(0, len(places), size)]


def _batch(entries: Sequence[Entry], loader: Loader, *, shuffled: bool) -> Batch:
    timesteps = torch.tensor([entry.timestep for entry in entries], dtype=torch.float32)
    return loader.grid([entry.sample for entry in entries], timesteps, [entry.seed for entry in entries], shuffled=shuffled)
