"""Whether a map is in one piece or scattered: Moran's I, and the spread of its values. Numbers in, numbers out.

Focal Guidance (arXiv 2601.07287, section 3.1) tells blocks that see a keyword from those that lose it by both.
Exercised by `pytest tests/train/test_moran.py`, where the library esda says the same.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Steps to half of a cell's eight neighbours; the other half are the same pairs seen from the other side."""


def moran(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Moran's I of each map, N / S0 * sum_ij w_ij z_i z_j / sum_i z_i^2, with w = 1 for the up to 8 neighbours of a cell, float64.

    1 for a map in one piece, about -1 / (N - 1) for noise. The paper's equation 3 lacks N / S0 and so grows with the map; its
    plots show the normalised figure. 0 for a constant map (`constant` tells), where the formula is 0 / 0.
    """
    height, width = maps.shape[-2:]
    z = maps.double() - maps.double().mean(dim=(-2, -1), keepdim=True)
    products, pairs = z.new_zeros(maps.shape[:-2]), 0
    for down, right in NEIGHBOURS:
        here, there = z[..., : height - down, max(0, -right) : width - max(0, right)], z[..., down:, max(0, right) : width - max(0, -right)]
        products = products + (here * there).sum(dim=(-2, -1))
        pairs += here.shape[-2] * here.shape[-1]
    squares = z.square().sum(dim=(-2, -1))
    same = constant(maps)
    found = height * width / max(1, 2 * pairs) * 2 * products / torch.where(same, torch.ones_like(squares), squares)
    return torch.where(same, torch.zeros_like(found), found)


def constant(maps: Float[Tensor, "*batch h w"]) -> Bool[Tensor, "*batch"]:
    """True for maps whose cells differ by no more than rounding does: a deviation below 4 units in the last place of their largest value."""
    largest = maps.abs().amax(dim=(-2, -1)).double()
    return maps.double().std(dim=(-2, -1), correction=0) <= 4 * torch.finfo(maps.dtype).eps * largest


def deviation(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Standard deviation of each map between its least and its highest value taken as 0 and 1, float64; 0 for a constant one."""
    exact, same = maps.double(), constant(maps)
    spread = exact.amax(dim=(-2, -1)) - exact.amin(dim=(-2, -1))
    return torch.where(same, torch.zeros_like(spread), exact.std(dim=(-2, -1), correction=0) / torch.where(same, torch.ones_like(spread), spread))
