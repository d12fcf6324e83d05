"""The processes of a run: who this one is, and the few things they tell each other.

Exercised by `pytest tests/train/test_world.py`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from vapdata.errors import CallError, RunError

PATIENCE = timedelta(minutes=30)
"""How long one process waits for the others; building the index of a large catalog is the longest wait."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One process among `ranks`."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64."""
        sums = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def first_alone(self, work: Callable[[], object]) -> None:
        """Rank 0 does `work`, the others wait. When it raises there, they end with a RunError that points to rank 0."""
        raised: BaseException | None = None
        if self.is_first:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told to the others, then raised again
                raised = error
        (failed,) = self.total([float(raised is not None)])
        if raised is not None:
            raise raised
        if failed:
            raise RunError("rank 0 could not go on; its message stands above")


@contextmanager
def world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started, or makes a world of one. `device` None takes this rank's GPU when there is one."""
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    chosen = _device(device, local)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    try:
        yield World(rank=rank, ranks=ranks, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(asked: str | None, local: int) -> torch.device:
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise CallError(f"--device {asked}: torch sees no GPU on this machine. Type --device cpu, or look at nvidia-smi")
    device = torch.device("cuda", local) if asked == "cuda" else torch.device(asked)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
