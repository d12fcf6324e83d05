"""Moran's I against the library of spatial statistics, in closed cases, and by its invariants."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from train import moran
from train.objective import normal


def by_library(one: Tensor) -> float:
    """esda's I with the 8 neighbours of libpysal's grid and binary weights."""
    with warnings.catch_warnings():  # the library warns of its own dependencies while it is imported
        warnings.simplefilter("ignore")
        from esda import Moran
        from libpysal.weights import lat2W

        weights = lat2W(*one.shape, rook=False)
        return float(Moran(one.double().numpy().flatten(), weights, transformation="B", permutations=0).I)


MAPS = {
    "noise 30 x 52": normal(0, (30, 52), "noise"),
    "noise 6 x 10": normal(1, (6, 10), "noise"),
    "smooth": torch.outer(torch.linspace(0, 3, 12).sin(), torch.linspace(0, 2, 17).cos()),
    "ramp": torch.arange(20.0)[None].expand(9, 20).contiguous(),
    "one row": normal(2, (1, 9), "row"),
    "two by two": normal(3, (2, 2), "four"),
}


@pytest.mark.parametrize("one", MAPS.values(), ids=MAPS)
def test_g3_it_is_what_the_library_says(one: Tensor) -> None:
    assert abs(float(moran.moran(one)) - by_library(one)) <= 1e-12


def test_g3_closed_cases() -> None:
    checkers = torch.from_numpy(np.indices((8, 8)).sum(axis=0) % 2).float()
    assert float(moran.moran(checkers)) == pytest.approx(-1 / 15, abs=1e-12), "diagonal neighbours alike, 98 of them; straight ones unlike, 112"
    assert float(moran.moran(torch.arange(400.0).reshape(20, 20))) > 0.9
    noise = moran.moran(normal(0, (2000, 8, 8), "many"))
    assert float(noise.mean()) == pytest.approx(-1 / 63, abs=3 * float(noise.std()) / 2000**0.5), "its expectation for noise is -1 / (N - 1)"


def test_g3_it_does_not_grow_with_the_map_as_the_printed_formula_does() -> None:
    small, large = (torch.outer(torch.linspace(0, 3, side).sin(), torch.linspace(0, 3, side).sin()) for side in (10, 60))
    assert abs(float(moran.moran(small)) - float(moran.moran(large))) < 0.2


def test_g3_level_and_scale_do_not_matter_and_each_map_of_a_batch_is_its_own() -> None:
    maps = normal(0, (2, 3, 6, 7), "maps").double()
    torch.testing.assert_close(moran.moran(-4 * maps + 100), moran.moran(maps), rtol=0, atol=1e-12)
    assert float(moran.moran(maps)[1, 2]) == pytest.approx(float(moran.moran(maps[1, 2])), abs=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.7, -1e-9, 1e9])
def test_g3_a_constant_map_is_flagged_and_counts_0(value: float) -> None:
    one = torch.full((5, 6), value)
    assert bool(moran.constant(one)) and float(moran.moran(one)) == 0 and float(moran.deviation(one)) == 0
    rounded = one * (1 + 1e-8 * normal(0, (5, 6), "rounding"))
    assert bool(moran.constant(rounded))
    assert not bool(moran.constant(one + normal(0, (5, 6), "map") * max(1.0, abs(value)) * 1e-3))


def test_the_deviation_is_that_between_least_and_highest_value() -> None:
    one = normal(0, (5, 6), "map").double()
    scaled = (one - one.min()) / (one.max() - one.min())
    assert float(moran.deviation(one)) == pytest.approx(float(scaled.std(correction=0)), abs=1e-12)
    assert float(moran.deviation(3 * one - 8)) == pytest.approx(float(moran.deviation(one)), abs=1e-12)
