"""Which samples make which step: pure functions of seed, epoch and global batch, which know neither rank nor worker.

The global batch is the unit. An epoch takes every sample once, in batches whose samples have one latent shape; what a
bucket's last batch lacks is filled with repeats of weight zero, so nothing is dropped. Random numbers are Philox's raw
ones, keyed by a hash: the same on every machine and in every version of numpy.
Exercised by `pytest tests/train/test_order.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place in a rank's micro-batch."""

    number: int
    """Place in the global batch, fill-ins counted on behind its true size."""
    sample: int
    weight: float
    """1, or 0 for a repeat that fills up."""


def permutation(count: int, *key: object) -> Int64[np.ndarray, " count"]:
    """The numbers below `count` in an order that follows from `key` alone."""
    return np.argsort(_raw(count, key), kind="stable")


def some(count: int, most: int, *key: object) -> Int64[np.ndarray, " some"]:
    """At most `most` different numbers below `count`, all of them when they are no more, in an order that follows from `key` alone."""
    if count <= most:
        return permutation(count, *key)
    drawn = _raw(most, key) % np.uint64(count)
    _, first = np.unique(drawn, return_index=True)
    return drawn[np.sort(first)].astype(np.int64)


def steps_per_epoch(buckets: Sequence[int] | np.ndarray, global_batch: int) -> int:
    """Steps that take every sample once; `buckets` is each sample's bucket."""
    _, counts = np.unique(np.asarray(buckets, np.int64), return_counts=True)
    return int(sum(-(-int(count) // global_batch) for count in counts))


def epoch_batches(buckets: Sequence[int] | np.ndarray, *, seed: int, epoch: int, global_batch: int) -> list[Int64[np.ndarray, " size"]]:
    """The epoch's global batches in order, each as places in `buckets`; the last of a bucket may be short.

    Each bucket is shuffled and cut into batches, then the batches of all buckets are shuffled.
    """
    if global_batch < 1:
        raise CallError(f"global_batch {global_batch}: wanted 1 or more. Type --set run.global_batch=8")
    every = np.asarray(buckets, np.int64)
    batches = []
    for bucket in np.unique(every):
        members = np.flatnonzero(every == bucket)
        shuffled = members[permutation(len(members), "samples", seed, epoch, bucket)]
        batches += [shuffled[start : start + global_batch] for start in range(0, len(shuffled), global_batch)]
    return [batches[place] for place in permutation(len(batches), "batches", seed, epoch)]


def micro_batches(batch: Sequence[int] | np.ndarray, *, global_batch: int, micro_batch: int, rank: int = 0, ranks: int = 1) -> list[list[Slot]]:
    """One rank's part of a global batch: its slots of each micro-step.

    Every rank takes the same number of micro-steps, of one size, `micro_batch` or less; a short batch takes fewer of
    them. Micro-step after micro-step, slots go to ranks in runs of that size. Slots behind the batch's last are its
    samples again, in order, with weight zero.
    """
    size, count = _micro_size(global_batch, micro_batch, ranks), len(batch)
    steps = -(-count // (size * ranks))
    numbers = (range((step * ranks + rank) * size, (step * ranks + rank + 1) * size) for step in range(steps))
    return [[Slot(number=number, sample=int(batch[number % count]), weight=float(number < count)) for number in part] for part in numbers]


def references(candidates: Sequence[int], count: int, *, seed: int, epoch: int, target: str) -> list[int]:
    """`count` different ones of a target's candidates, anew in every epoch: any of them can come, with equal chances."""
    if count > len(candidates):
        raise CallError(f"target {target} has {len(candidates)} references, {count} are wanted. Ask for fewer, or pair again: vapdata pairs")
    return [candidates[place] for place in permutation(len(candidates), "references", seed, epoch, target)[:count]] if count else []


def _micro_size(global_batch: int, micro_batch: int, ranks: int) -> int:
    """Samples of a micro-batch: as even as they can be, so that no more slots are filled up than must be."""
    steps = -(-global_batch // (micro_batch * ranks))
    return -(-global_batch // (ranks * steps))


def _raw(count: int, key: tuple[object, ...]) -> UInt64[np.ndarray, " count"]:
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode("utf-8", "surrogatepass")).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "big")).random_raw(count)
