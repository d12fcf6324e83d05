"""The processes of a run: who this one is, the few things they tell each other, and whether they were asked to stop.

Exercised by `pytest tests/train/test_world.py`.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

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
        self.together(work if self.is_first else lambda: None)

    def together(self, work: Callable[[], object]) -> None:
        """Every process does `work` and waits for the others. Where it raises in one, the others end with a RunError instead of waiting for ever."""
        raised: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the others, then raised again
            raised = error
        failed = self.total([float(raised is not None and self.rank == rank) for rank in range(self.ranks)])
        if raised is not None:
            raise raised
        if any(failed):
            raise RunError(f"process {failed.index(1.0)} could not go on; its message stands above")


STOP = "stop"
"""A file of this name in the run's folder asks every process to save and end."""


@dataclass
class Asked:
    """Whether SIGTERM, or a file, asked the run to end."""

    file: Path
    told: bool = False

    @property
    def stop(self) -> bool:
        """Whether it did so until now."""
        return self.told or self.file.exists()


@contextmanager
def asked_to_stop(folder: Path) -> Iterator[Asked]:
    """What the loop looks at after each step, so that it can save and end well: SIGTERM, or a file `stop` in the run's folder.

    A thread that is not the main one, as in Ray's workers, hears no signals: there the file is all.
    """
    asked = Asked(folder / STOP)

    def note(number: int, frame: FrameType | None) -> None:
        asked.told = True

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started, or makes a world of one. `device` None takes this rank's GPU when there is one.

    Processes that have met already, as Ray Train's workers have, stay together afterwards. Raises CallError for a device
    that is not there, RunError when the other processes cannot be met.
    """
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    chosen = _device(device, local)
    if dist.is_initialized():
        yield World(rank=dist.get_rank(), ranks=dist.get_world_size(), device=chosen)
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        try:
            dist.init_process_group(backend, timeout=PATIENCE)
        except (ValueError, dist.DistError) as error:
            raise RunError(f"process {rank} of {ranks} cannot meet the others ({str(error).partition(chr(10))[0]}). Start all of them with torchrun") from error
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    try:
        yield World(rank=rank, ranks=ranks, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(asked: str | None, local: int) -> torch.device:
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise CallError(f"--device {asked}: torch knows no such device. Type cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise CallError(f"--device {asked}: training runs on cpu or cuda. Type --device cpu")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise CallError(f"--device {asked}: torch sees no GPU on this machine. Type --device cpu, or look at nvidia-smi")
    device = torch.device("cuda", local) if device.index is None else device
    if device.index >= torch.cuda.device_count():
        raise CallError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs, counted from 0. Start at most as many processes, or type --device cuda:0")
    torch.cuda.set_device(device)
    return device
