"""What a run remembers of itself: weights of what is trained, optimiser state, moving average and position, whole or not at all.

A checkpoint is a folder `checkpoints/step-00000100` of safetensors files, written by torch.distributed.checkpoint:
every process writes its share, and the folder gets its name once all of it is on disk. It holds no pickle, and
tensors by name, so that another number of processes reads it. What is left of a killed run begins with a dot and
is removed by the next one. `python -m train.vap --resume --out RUN` goes on from the newest; exercised by
`pytest tests/train/test_checkpoint.py`.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vapdata.errors import CallError, RunError

FOLDER = "checkpoints"
STAMP = "stamp.json"
FILE_BYTES = 500_000_000
"""About how large one file gets. A file is put together in memory: twice this is what a process needs besides its copy."""

NOTHING = "nothing.learned"
"""What a checkpoint holds of a method of which nothing learns."""

_COMPLETE = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """How often a run is kept, and how much of it."""

    every: int = 500
    """Optimiser steps between checkpoints; the last step always has one. 0: only that."""
    keep: int = 3
    """The newest so many stay."""
    keep_every: int = 0
    """Every so many steps one stays for good; 0: none besides the newest."""
    background: bool = True
    """Write while training goes on, from a copy in the CPU's memory."""
    mirror: str | None = None
    """Address in an object store that gets a copy of the run, see train/mirror.py; None: none."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1 or self.keep_every < 0:
            got = f"every={self.every} keep={self.keep} keep_every={self.keep_every}"
            raise CallError(f"checkpoints: got {got}; keep is 1 or more, the others 0 or more. Type e.g. --set checkpoints.keep=3")


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Which run a checkpoint belongs to, and where in it."""

    method: str
    config: str
    """The method's fields as a JSON object."""
    backbone: str
    catalog: str
    """Address; not compared, for a catalog may be moved."""
    index: str
    """Fingerprint of the samples and their order."""
    generation: str | None
    """Of the pairs; None for a method without references."""
    step: int
    """Optimiser steps that lie behind it: the data position, for all else that is random follows from it and the seed."""
    ranks: int
    """Processes that wrote it; any number may read it."""
    global_batch: int
    seed: int
    weights: str = ""
    """Fingerprint of the backbone's weights before training (`train.export.fingerprint`); empty where it is not known."""


class Saver:
    """Writes the checkpoints of one run. Every process makes one, at the same point; a process group must be there.

    Making it removes what an earlier run left unfinished.
    """

    def __init__(self, folder: Path, policy: Checkpoints, stamp: Stamp, then: Callable[[Path], None] | None = None) -> None:
        """`then` is given each checkpoint that is complete, in the first process, where it is written."""
        self._folder, self._policy, self._stamp, self._then = folder / FOLDER, policy, stamp, then
        if dist.get_rank() == 0:
            _remove(self._folder.glob(".step-*"))
        # Of its own: the loop's collectives go on in the main thread while a checkpoint's run in another.
        self._group = dist.new_group(backend="gloo")
        self._flying: Future[Metadata] | None = None
        self._path = self._folder

    def save(self, step: int, module: nn.Module, optimizer: Optimizer, ema: Mapping[str, Tensor] | None, *, block: bool) -> None:
        """Keeps the run as it is after `step` steps. Every process calls it.

        Returns as soon as what is to be written is copied, unless `block` or the policy says otherwise. One that is
        still being written is waited for first; raises what that one raised, as `finish` does.
        """
        self.finish()
        self._path = self._folder / f"step-{step:08d}"
        state = {name: value.contiguous() for name, value in _state(module, optimizer, ema).items()}
        owners, files = _shared_out(state, dist.get_world_size())
        mine = {name: value for name, value in state.items() if owners[name] in (None, dist.get_rank())}
        writer = _Writer(self._path, files, replace(self._stamp, step=step), self._policy, self._then)
        try:
            if self._policy.background and not block:
                flying = dcp.async_save(_parts(mine), storage_writer=writer, process_group=self._group)
                assert isinstance(flying, Future), "the writer copies before it returns"
                self._flying = flying
            else:
                dcp.save(_parts(mine), storage_writer=writer, process_group=self._group)
        except CheckpointException as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Waits for the checkpoint that is being written. Raises RunError when it cannot be: then there is none of that step."""
        flying, self._flying = self._flying, None
        try:
            if flying is not None:
                flying.result()
        except CheckpointException as error:
            raise self._failed(error) from error

    def _failed(self, error: CheckpointException) -> RunError:
        """The sentence for the first process that failed. Gives the disk back what was written."""
        if dist.get_rank() == 0:
            _remove([_partial(self._path)])
        rank, (cause, _) = min(error.failures.items())
        if isinstance(cause, RunError):
            return RunError(str(cause))
        if isinstance(cause, OSError):
            return RunError(f"{self._path}: the checkpoint cannot be written ({cause.strerror}). Free the disk, then go on with --resume")
        return RunError(f"{self._path}: the checkpoint cannot be written (process {rank}: {type(cause).__name__}: {cause}). Go on from the one before with --resume")


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint of the run in `folder`; None when there is none."""
    return max(complete(folder / FOLDER), default=(0, None))[1]


def read_stamp(path: Path) -> Stamp:
    """What the checkpoint says of itself. Raises CallError when it is none of this version's."""
    try:
        return Stamp(**json.loads((path / STAMP).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CallError(f"{path}: {STAMP} cannot be read as a checkpoint's ({error}). Remove the folder to go on from the one before, or give another --out") from error


def refuse(path: Path, stamp: Stamp) -> None:
    """Raises CallError when the checkpoint was written by another run than the one `stamp` describes; all differences in one sentence."""
    kept = read_stamp(path)
    found = [*_differences(kept, stamp)]
    if found:
        typed = [each.typed for each in found if each.typed]
        way = f"Type {' '.join(typed)}, or give another --out" if len(typed) == len(found) else "Give another --out"
        raise CallError(f"{path}: was written with {', '.join(each.got for each in found)}; this run has {', '.join(each.wanted for each in found)}. {way}")


def restore(path: Path, module: nn.Module, optimizer: Optimizer, ema: Mapping[str, Tensor] | None) -> int:
    """The steps that lie behind the checkpoint; module, optimiser state and moving average are as they were, bit for bit.

    Every process calls it. What is loaded is put in place, so that nothing is in memory twice. The optimiser's
    settings are the run's own, not the checkpoint's. Raises CallError when tensors are missing, left over or of
    another shape, RunError when a file cannot be read.
    """
    step = read_stamp(path).step
    _fill(path, _state(module, optimizer, ema), left_alone=() if ema is not None else ("ema.",), alone=False)
    return step


def restore_weights(path: Path, module: nn.Module) -> int:
    """The steps that lie behind the checkpoint; the module has its weights. For looking at a run that is still training.

    Needs neither optimiser nor process group. Raises as `restore` does.
    """
    step = read_stamp(path).step
    if not module.state_dict():
        return step
    _fill(path, {f"model.{name}": value for name, value in module.state_dict().items()}, left_alone=("ema.", "optimizer."), alone=True)
    return step


class _Writer(dcp.HuggingFaceStorageWriter):
    """Writes into a folder with a dot, and names it when every process is done."""

    def __init__(self, path: Path, files: Mapping[str, int], stamp: Stamp, policy: Checkpoints, then: Callable[[Path], None] | None) -> None:
        super().__init__(str(_partial(path)), fqn_to_index_mapping=dict(files), save_distributed=True)
        self._final, self._stamp, self._policy, self._then = path, stamp, policy, then

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called by the first process alone, after all have written: the checkpoint becomes complete, then older ones go."""
        partial = _partial(self._final)
        absent = sorted({each.storage_data.relative_path for written in results for each in written} - set(os.listdir(partial)))
        if absent:
            raise RunError(f"{partial}: lacks {absent[0]}, which another process has written ({len(absent)} such files). Give an --out that is one folder for all machines")
        (partial / STAMP).write_text(json.dumps(asdict(self._stamp), indent=1))
        _to_disk(partial / STAMP, partial)
        if self._final.exists():
            self._final.rename(_removed(self._final))
        partial.rename(self._final)
        _to_disk(self._final.parent)
        _prune(self._final.parent, self._policy)
        if self._then is not None:
            self._then(self._final)


def _state(module: nn.Module, optimizer: Optimizer, ema: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Everything that is kept, by name. The tensors are the run's own, not copies."""
    if not module.state_dict():  # torch refuses to keep nothing
        return {NOTHING: torch.zeros(1)}
    state = {f"model.{name}": value for name, value in get_model_state_dict(module).items()}
    for name, values in get_optimizer_state_dict(module, optimizer)["state"].items():
        state |= {f"optimizer.{name}.{kind}": value for kind, value in values.items()}
    state |= {f"ema.{name}": value for name, value in (ema or {}).items()}
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise TypeError(f"a checkpoint holds tensors alone, {other[0]} is a {type(state[other[0]]).__name__}")
    return state


def _parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`model.a.b` as `model`, `a.b`: what torch puts together again, and logs about once a part instead of once a tensor."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def _shared_out(state: Mapping[str, Tensor], ranks: int) -> tuple[dict[str, int | None], dict[str, int]]:
    """Who writes which tensor, and into which of his files, from 1. None: everybody writes his part of a sharded one.

    Equal in every process. Only what a process writes is copied for it: a copy of all in each of eight would be
    eight times the memory.
    """
    owners: dict[str, int | None] = {}
    files: dict[str, int] = {}
    load = [0] * ranks
    for name, value in sorted(state.items(), key=lambda each: (-each[1].nbytes, each[0])):
        owner = load.index(min(load))
        owners[name] = None if isinstance(value, DTensor) else owner
        files[name] = 1 + load[owner] // FILE_BYTES
        load[owner] += value.nbytes
    return owners, files


def _fill(path: Path, state: Mapping[str, Tensor], *, left_alone: tuple[str, ...], alone: bool) -> None:
    """Puts the checkpoint's tensors into those of `state`. What begins with one of `left_alone` may lie there unread."""
    reader = dcp.HuggingFaceStorageReader(str(path))
    try:
        there = {name: each.size for name, each in reader.read_metadata().state_dict_metadata.items() if isinstance(each, TensorStorageMetadata)}
        _check(path, state, {name: size for name, size in there.items() if not name.startswith(left_alone)})
        with warnings.catch_warnings():
            # That there is one process is what `alone` says.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            dcp.load(_parts(state), storage_reader=reader, no_dist=alone)
    except (CheckpointException, OSError, SafetensorError) as error:
        cause = min(error.failures.items())[1][0] if isinstance(error, CheckpointException) else error
        raise RunError(f"{path}: a file of this checkpoint cannot be read ({cause}). Remove the folder to go on from the one before") from error


def _check(path: Path, state: Mapping[str, Tensor], there: Mapping[str, torch.Size]) -> None:
    """Raises CallError when the checkpoint's tensors are not the run's."""
    missing, left = sorted(state.keys() - there.keys()), sorted(there.keys() - state.keys())
    shapes = [name for name in sorted(state.keys() & there.keys()) if state[name].shape != there[name]]
    if missing and all(name.startswith("ema.") for name in missing):
        raise CallError(f"{path}: holds no moving average, this run wants one. Type --set optimizer.ema=0, or give another --out")
    if missing or left:
        raise CallError(f"{path}: {_counted(missing, 'missing')} and {_counted(left, 'left over')}; the method trains other tensors now. Give another --out")
    if shapes:
        name = shapes[0]
        raise CallError(f"{path}: {name} is {tuple(there[name])} in the checkpoint, {tuple(state[name].shape)} in this run ({len(shapes)} such tensors). Give another --out")


def _counted(names: list[str], what: str) -> str:
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} tensors are {what}{shown}"


@dataclass(frozen=True)
class _Difference:
    """One thing in which checkpoint and run differ."""

    got: str
    wanted: str
    typed: str
    """What makes the run like the checkpoint; empty when nothing does."""


def _differences(kept: Stamp, stamp: Stamp) -> Iterable[_Difference]:
    if kept.method != stamp.method:
        yield _Difference(f"method {kept.method}", f"method {stamp.method}", f"python -m train.{kept.method}")
    else:
        yield from _settings(kept, stamp)
    for field, flag in (("backbone", "--backbone"), ("global_batch", "--global-batch"), ("seed", "--seed")):
        got, wanted = getattr(kept, field), getattr(stamp, field)
        if got != wanted:
            yield _Difference(f"{field} {got}", f"{field} {wanted}", f"{flag} {got}")
    for field, noun in (("index", "samples (index)"), ("generation", "pairs (generation)")):
        got, wanted = getattr(kept, field), getattr(stamp, field)
        if got != wanted:
            yield _Difference(f"{noun} {_short(got)}", f"{noun} {_short(wanted)}", "")
    if kept.weights and stamp.weights and kept.weights != stamp.weights:
        yield _Difference(f"backbone weights {_short(kept.weights)}", f"backbone weights {_short(stamp.weights)}", "")


def _settings(kept: Stamp, stamp: Stamp) -> Iterable[_Difference]:
    """The method's fields that differ. One that a version has and the other lacks differs too."""
    got, wanted = json.loads(kept.config), json.loads(stamp.config)
    for name in sorted(got.keys() | wanted.keys()):
        if got.get(name) != wanted.get(name):
            here, there = _typed(got.get(name)), _typed(wanted.get(name))
            yield _Difference(f"{kept.method}.{name} {here}", f"{stamp.method}.{name} {there}", f"--set {kept.method}.{name}={here}")


def _typed(value: object) -> str:
    """A setting as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _short(value: str | None) -> str:
    return "none" if value is None else value[:12]


def complete(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every complete checkpoint, oldest first."""
    named = [(_COMPLETE.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ())]
    return sorted((int(match[1]), path) for match, path in named if match and (path / STAMP).is_file())


def _prune(folder: Path, policy: Checkpoints) -> None:
    """Removes what the policy does not keep. A folder loses its name first, so that half of one is never taken for one."""
    gone = []
    for step, path in complete(folder)[: -policy.keep]:
        if not policy.keep_every or step % policy.keep_every:
            gone.append(path.rename(_removed(path)))
    _remove([*gone, *folder.glob(".step-*.removed")])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            shutil.rmtree(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _removed(path: Path) -> Path:
    return path.with_name(f".{path.name}.removed")


def _to_disk(*paths: Path) -> None:
    """Returns when files, or the names in folders, would outlive a power cut."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
