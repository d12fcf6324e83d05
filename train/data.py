"""From an index to batches: each process its part of every global batch, read ahead in the background.

`global_batch` is the unit: what is in it, its noise, timesteps, dropout and references follow from (seed, step, sample)
alone, so that a run stopped anywhere and resumed on another number of processes goes on as if nothing had happened.
No database is asked, and no worker processes are started: one thread keeps `prefetch` steps ready.
Exercised by `pytest tests/train/test_data.py`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from catalogs.store import Catalog
from train import order
from train.ahead import ahead
from train.batch import Batch, Side
from train.cells import CellReader, Place
from train.draws import DEFAULT, Draws
from train.method import Objective
from train.objective import normal, seed_of, uniform
from train.samples import Index
from train.sides import Pick, Sides
from vapdata.backbones import Backbone
from vapdata.errors import CallError

CHECKED_BYTES = 1 << 30
"""`Loader.check` reads all tensors up to this size, and as much of more."""

_TRIED = 256
"""Samples that are looked at for one of another condition."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step's data for one process."""

    number: int
    """Counted from 0."""
    epoch: int
    micro: tuple[Batch, ...]
    """As many, and of the same size, on every process."""
    size: int
    """True samples of the global batch, over all processes: what the summed loss is divided by."""
    clip_ids: tuple[str, ...]
    """Targets of the global batch, over all processes, in the order of their slots."""
    bytes: int
    """Read by this process."""
    waited_s: float = 0.0
    """How long the consumer stood still for it."""


@dataclass(frozen=True, kw_only=True)
class _Picked:
    """One sample of a micro-batch, decided."""

    target: Pick
    references: tuple[Pick, ...]
    weight: float
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """One step, decided and not yet read."""

    number: int
    epoch: int
    batch: np.ndarray
    """The samples of the global batch."""
    micro: tuple[tuple[_Picked, ...], ...]
    places: tuple[Place, ...]


class Loader:
    """Reads the samples of an index for one of `ranks` processes."""

    def __init__(
        self,
        index: Index,
        facts: Backbone,
        objective: Objective,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        ranks: int = 1,
        references: int | None = None,
        caption_drop: float = 0.0,
        draws: Draws = DEFAULT,
        checksums: bool = False,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        """`references` per sample, None for what the index was made for; `draws`: what training steps draw; `checksums`: page checksums are verified in epoch 0.

        Raises CallError when the numbers do not fit the index, CatalogDamaged when a tensor file is gone or has
        another size than when the index was made.
        """
        _check_call(index, facts, global_batch, micro_batch, rank, ranks, references)
        self.index, self.facts, self.objective = index, facts, objective
        self.seed, self.global_batch, self.micro_batch, self.rank, self.ranks = seed, global_batch, micro_batch, rank, ranks
        self.references = index.reads.references if references is None else references
        self.caption_drop, self.checksums, self.prefetch = caption_drop, checksums, prefetch
        self._train = np.asarray(index.train, np.int64)
        self._buckets = index.samples.buckets[1][self._train]
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self._reader = CellReader(Catalog.open(index.catalog))
        self._reader.check_sizes(index.files)
        self._sides = Sides(index, facts, self._reader, draws=draws, pin=pin)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps that take every training sample once."""
        return order.steps_per_epoch(self._buckets, self.global_batch)

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps `start` to `stop` - 1. Closing the generator ends its thread; what is raised there is raised here, at its step."""
        made = ahead(lambda: self._steps(start, stop), self.prefetch)
        with contextlib.closing(made):
            for step, waited_s in made:
                yield replace(step, waited_s=waited_s)

    def step(self, number: int) -> Step:
        """One step, made on the spot."""
        plan = self._plan(number)
        self._expect(plan)
        return self._read(plan)

    def grid(self, samples: Sequence[int], timesteps: Float[Tensor, " B"], seeds: Sequence[int], *, shuffled: bool = False) -> Batch:
        """A fixed batch for evaluation: no dropout, weights 1, step -1, the references of epoch 0. The samples have one latent shape.

        `shuffled` gives each sample the references of another one, of other conditions where there is one.
        """
        picked = []
        for number, seed in zip(samples, seeds, strict=True):
            references = self._exchanged(number) if shuffled else self._chosen(number, 0)
            picked.append(_Picked(target=_own(self.index.samples.target(number)), references=tuple(map(_own, references)), weight=1.0, seed=seed))
        return self._batch(picked, -1, timesteps, check=False)

    def one_of_each(self) -> Iterator[Batch]:
        """A batch of one sample for each shape of latents that is trained on."""
        for bucket in np.unique(self._buckets):
            yield self.grid([int(self._train[np.flatnonzero(self._buckets == bucket)[0]])], torch.zeros(1), [0])

    def side(self, clip_ids: Sequence[str]) -> Side:
        """Clips of the index with their own captions. Raises CallError for a clip that is in no sample."""
        return self._sides.side([_own(self.index.number(clip)) for clip in clip_ids])

    def prompt(self, which: Literal["empty", "negative"], like: Side) -> dict[str, Tensor]:
        """The empty or the negative prompt as those fields of a `Side` that speak of the caption: as many, and on the device, as `like` has clips."""
        return {name: value.to(like.video.device) for name, value in self._sides.prompt(which, len(like.clip_ids)).items()}

    def check(self) -> None:
        """Reads tensors of this process's share once: all of them up to CHECKED_BYTES, evenly picked ones of more.

        Raises CatalogDamaged that names the first that does not hold what it should: another clip, NaN, infinity.
        """
        texts = [self.index.constant(name) for name in ("empty", "negative")] if self.index.reads.text else []
        clips = len(self.index.clip_ids)
        one = sum(place.bytes for place in self._sides.places(_own(0)))
        every = max(1, -(-clips * one // CHECKED_BYTES))
        for number in range(0, clips, every)[self.rank :: self.ranks]:
            self._reader.expect(self._sides.places(_own(number)))
            self._sides.side([_own(number)])
        for number in texts:
            self._sides.side([Pick(clip=0, text=number)])

    def close(self) -> None:
        """Lets the files go."""
        self._reader.close()

    def _steps(self, start: int, stop: int) -> Iterator[Step]:
        """The steps in order; while one is made of what was read, the disk is at the next one's."""
        coming = None
        for number in range(start, stop):
            plan = coming or self._plan(number)
            coming = self._plan(number + 1) if number + 1 < stop else None
            for each in (plan, coming) if number == start else (coming,):
                self._expect(each)
            yield self._read(plan)

    # Deciding

    def _plan(self, number: int) -> _Plan:
        """What a step reads."""
        epoch = number // self.steps_per_epoch
        batch = self._batch_of(number, epoch)
        slots = order.micro_batches(batch, global_batch=self.global_batch, micro_batch=self.micro_batch, rank=self.rank, ranks=self.ranks)
        micro = tuple(tuple(self._picked(slot, number, epoch) for slot in part) for part in slots)
        return _Plan(number=number, epoch=epoch, batch=batch, micro=micro, places=tuple(place for part in micro for each in part for place in self._places(each)))

    def _batch_of(self, number: int, epoch: int) -> np.ndarray:
        """The samples of a step's global batch."""
        known = self._epoch
        if known[0] != epoch:
            known = self._epoch = (epoch, order.epoch_batches(self._buckets, seed=self.seed, epoch=epoch, global_batch=self.global_batch))
        return self._train[known[1][number % self.steps_per_epoch]]

    def _picked(self, slot: order.Slot, step: int, epoch: int) -> _Picked:
        target = self.index.samples.target(slot.sample)
        seed = seed_of(self.seed, step, slot.number, self.index.clip_ids[target])
        dropped = self.index.reads.text and uniform(seed, "caption") < self.caption_drop
        empty = self.index.constant("empty")

        def picked(clip: int) -> Pick:
            return Pick(clip=clip, text=empty if dropped else clip, draw=seed)

        return _Picked(target=picked(target), references=tuple(map(picked, self._chosen(slot.sample, epoch))), weight=slot.weight, seed=seed)

    def _chosen(self, sample: int, epoch: int) -> list[int]:
        """A sample's references in an epoch."""
        target = self.index.clip_ids[self.index.samples.target(sample)]
        return order.references(self.index.samples.candidates(sample) if self.references else (), self.references, seed=self.seed, epoch=epoch, target=target)

    def _exchanged(self, sample: int) -> list[int]:
        """The references, in epoch 0, of another sample that shares shape but no condition; of any other where there is none."""
        if not self.references:
            return []
        mine = self.index.samples[sample]
        near = [int(each) for each in order.some(len(self.index.samples), _TRIED, "exchanged", self.seed, sample) if each != sample]
        near = [each for each in near if self.index.samples.bucket(each) == mine.bucket]
        strange = [each for each in near if not {*self.index.samples[each].conditions} & {*mine.conditions}]
        for other in (*strange, *near):
            found = self._chosen(other, 0)
            if self.index.samples.target(sample) not in found:
                return found
        return self._chosen(sample, 0)

    # Reading

    def _expect(self, plan: _Plan | None) -> None:
        if plan is not None and not self._checks(plan):
            self._reader.expect(plan.places)

    def _checks(self, plan: _Plan) -> bool:
        """Whether page checksums are verified: pyarrow then reads, and nothing is mapped."""
        return self.checksums and plan.epoch == 0

    def _read(self, plan: _Plan) -> Step:
        samples = self.index.samples
        return Step(
            number=plan.number,
            epoch=plan.epoch,
            micro=tuple(self._micro(part, plan.number, check=self._checks(plan)) for part in plan.micro),
            size=len(plan.batch),
            clip_ids=tuple(self.index.clip_ids[samples.target(int(each))] for each in plan.batch),
            bytes=sum(place.bytes for place in plan.places),
        )

    def _places(self, picked: _Picked) -> Iterator[Place]:
        return (place for pick in (picked.target, *picked.references) for place in self._sides.places(pick))

    def _micro(self, picked: Sequence[_Picked], step: int, *, check: bool) -> Batch:
        return self._batch(picked, step, self.objective.timesteps([each.seed for each in picked]), check=check)

    def _batch(self, picked: Sequence[_Picked], step: int, timesteps: Tensor, *, check: bool) -> Batch:
        target = self._sides.side([each.target for each in picked], check=check)
        references = tuple(self._sides.side([each.references[place] for each in picked], check=check) for place in range(self.references))
        noise = torch.empty(target.video.shape, pin_memory=self._sides.pin)
        for out, each in zip(noise, picked, strict=True):
            out.copy_(normal(each.seed, out.shape))
        return Batch(
            step=step,
            target=target,
            references=references,
            weights=torch.tensor([each.weight for each in picked]),
            seeds=tuple(each.seed for each in picked),
            timesteps=timesteps,
            noise=noise,
        )


def _own(clip: int) -> Pick:
    """A clip with its own caption."""
    return Pick(clip=clip, text=clip)


def _check_call(index: Index, facts: Backbone, global_batch: int, micro_batch: int, rank: int, ranks: int, references: int | None) -> None:
    if facts.name != index.backbone:
        raise CallError(f"the index holds latents of {index.backbone}, the run's backbone is {facts.name}. Type --backbone {index.backbone}, or give another --out")
    if global_batch < 1 or micro_batch < 1 or not 0 <= rank < ranks:
        raise CallError(f"loader: got global_batch={global_batch} micro_batch={micro_batch} rank={rank} of {ranks}; wanted sizes of 1 or more and a rank below {ranks}")
    if references is not None and references > index.reads.references:
        raise CallError(f"loader: {references} references are wanted, the index was made for {index.reads.references}. Start the run anew: give another --out")
