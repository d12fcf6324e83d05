"""Orders worked out by hand; global batches that no number of processes changes; references that are never the target."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.order import Slot, epoch_batches, micro_batches, permutation, references, some, steps_per_epoch
from vapdata.errors import CallError


def slots(part: list[Slot]) -> list[tuple[int, int, float]]:
    return [(slot.number, slot.sample, slot.weight) for slot in part]


# Permutations


def test_a_permutation_is_the_same_on_every_machine_and_in_every_version() -> None:
    # Philox 4x64-10, key = the first 16 bytes of SHA-256("samples\0" "7"), big-endian; sorted by its raw numbers.
    assert permutation(8, "samples", 7).tolist() == [6, 0, 1, 7, 2, 3, 4, 5]


def test_a_permutation_has_every_number_once_and_another_key_gives_another() -> None:
    one, other = permutation(1000, "a", 1), permutation(1000, "a", 2)
    assert sorted(one.tolist()) == list(range(1000)) and one.tolist() != other.tolist()
    assert permutation(0, "a").tolist() == []


def test_parts_of_a_key_are_told_apart() -> None:
    assert permutation(100, "a", 12).tolist() != permutation(100, "a1", 2).tolist()


def test_some_of_few_are_all_and_some_of_many_are_different_ones() -> None:
    assert sorted(some(5, 8, "k").tolist()) == [0, 1, 2, 3, 4]
    drawn = some(10**6, 256, "k").tolist()
    assert len(set(drawn)) == len(drawn) > 250 and max(drawn) < 10**6
    assert drawn == some(10**6, 256, "k").tolist()


# Epochs


def test_an_epoch_of_two_buckets_has_batches_of_one_bucket_and_drops_nothing() -> None:
    buckets = [0, 1, 0, 0, 1, 0, 0, 1]
    batches = epoch_batches(buckets, seed=3, epoch=0, global_batch=2)
    assert sorted(len(batch) for batch in batches) == [1, 1, 2, 2, 2]  # 5 = 2 + 2 + 1 and 3 = 2 + 1
    assert sorted(int(each) for batch in batches for each in batch) == list(range(8))
    assert all(len({buckets[each] for each in batch}) == 1 for batch in batches)
    assert steps_per_epoch(buckets, 2) == 5


def test_an_epoch_follows_from_seed_epoch_and_global_batch_alone() -> None:
    def flat(**changes: int) -> list[list[int]]:
        return [batch.tolist() for batch in epoch_batches([0] * 20, **{"seed": 0, "epoch": 0, "global_batch": 4, **changes})]

    assert flat() == flat()
    assert flat() != flat(seed=1) and flat() != flat(epoch=1)
    assert [len(batch) for batch in flat(global_batch=6)] != [len(batch) for batch in flat()]


def test_batches_of_all_buckets_are_mixed() -> None:
    buckets = [0] * 200 + [1] * 200
    kinds = [buckets[batch[0]] for batch in epoch_batches(buckets, seed=0, epoch=0, global_batch=4)]
    assert 30 < sum(one != other for one, other in pairwise(kinds)) < 70


def test_a_global_batch_of_nothing_is_refused() -> None:
    with pytest.raises(CallError, match="global_batch 0: wanted 1 or more"):
        epoch_batches([0], seed=0, epoch=0, global_batch=0)


# Micro-steps


def test_two_ranks_take_runs_of_slots_micro_step_after_micro_step() -> None:
    batch = [10, 11, 12, 13, 14, 15, 16, 17]
    first, second = (micro_batches(batch, global_batch=8, micro_batch=2, rank=rank, ranks=2) for rank in (0, 1))
    assert [slots(part) for part in first] == [[(0, 10, 1.0), (1, 11, 1.0)], [(4, 14, 1.0), (5, 15, 1.0)]]
    assert [slots(part) for part in second] == [[(2, 12, 1.0), (3, 13, 1.0)], [(6, 16, 1.0), (7, 17, 1.0)]]


def test_what_does_not_divide_is_filled_up_with_its_samples_again_at_weight_zero() -> None:
    parts = micro_batches([10, 11, 12, 13, 14], global_batch=5, micro_batch=2)
    assert [slots(part) for part in parts] == [[(0, 10, 1.0), (1, 11, 1.0)], [(2, 12, 1.0), (3, 13, 1.0)], [(4, 14, 1.0), (5, 10, 0.0)]]


def test_a_short_batch_takes_fewer_micro_steps_and_the_same_on_every_rank() -> None:
    parts = [micro_batches([10, 11, 12], global_batch=16, micro_batch=2, rank=rank, ranks=2) for rank in (0, 1)]
    assert [slots(part) for part in parts[0]] == [[(0, 10, 1.0), (1, 11, 1.0)]]
    assert [slots(part) for part in parts[1]] == [[(2, 12, 1.0), (3, 10, 0.0)]]


def test_micro_batches_are_evened_out() -> None:
    assert [len(part) for part in micro_batches(range(9), global_batch=9, micro_batch=8)] == [5, 5]  # not 8 and 8


def test_more_ranks_than_samples_leave_some_with_fill_ins_alone() -> None:
    weights = [slot.weight for rank in range(4) for part in micro_batches([7, 8], global_batch=2, micro_batch=4, rank=rank, ranks=4) for slot in part]
    assert weights == [1.0, 1.0, 0.0, 0.0]


@settings(max_examples=200, deadline=None)
@given(global_batch=st.integers(1, 40), share=st.floats(0.01, 1), micro_batch=st.integers(1, 9), ranks=st.integers(1, 6))
def test_every_number_of_ranks_and_any_accumulation_give_the_same_global_batch(global_batch: int, share: float, micro_batch: int, ranks: int) -> None:
    batch = (np.arange(max(1, int(global_batch * share))) + 100).tolist()
    parts = [micro_batches(batch, global_batch=global_batch, micro_batch=micro_batch, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(each) for each in parts}) == 1
    assert len({len(part) for each in parts for part in each}) == 1
    assert all(len(part) <= micro_batch for each in parts for part in each)
    every = [slot for each in parts for part in each for slot in part]
    assert sorted((slot.number, slot.sample) for slot in every if slot.weight) == list(enumerate(batch))
    assert sorted(slot.number for slot in every) == list(range(len(every)))
    assert len(every) - len(batch) < ranks * len(parts[0][0])  # no micro-step of fill-ins alone


# References


def test_a_reference_is_one_of_the_candidates_and_each_of_them_comes_about_as_often() -> None:
    candidates = [3, 5, 8, 13]
    drawn = Counter(references(candidates, 1, seed=0, epoch=epoch, target="t")[0] for epoch in range(400))
    assert set(drawn) == set(candidates)
    assert all(70 < count < 130 for count in drawn.values())


def test_several_references_are_different_ones() -> None:
    drawn = [references([1, 2, 3, 4], 3, seed=1, epoch=epoch, target="t") for epoch in range(50)]
    assert all(len(set(each)) == 3 for each in drawn) and len({tuple(each) for each in drawn}) > 10
    assert sorted(references([1, 2, 3], 3, seed=1, epoch=0, target="t")) == [1, 2, 3]


def test_a_reference_follows_from_seed_epoch_and_target_alone() -> None:
    def drawn(**changes: object) -> list[int]:
        return references(list(range(100)), 1, **{"seed": 0, "epoch": 0, "target": "t", **changes})

    assert drawn() == drawn()
    assert len({tuple(drawn()), tuple(drawn(seed=1)), tuple(drawn(epoch=1)), tuple(drawn(target="u"))}) == 4


def test_no_reference_is_chosen_where_none_is_wanted_and_too_few_are_refused() -> None:
    assert references([], 0, seed=0, epoch=0, target="t") == []
    with pytest.raises(CallError, match="target t has 2 references, 3 are wanted"):
        references([1, 2], 3, seed=0, epoch=0, target="t")
