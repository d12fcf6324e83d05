"""Modules of a method's own, made from the backbone's: float32 copies, and low-rank views that share its weights.

A backbone stays as it was loaded: copies are copies, and a view is another set of module objects around the very
same weights. Exercised by `pytest tests/train/test_vap.py`.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from train.objective import normal, seed_of

ATTENTION = "attn1"
"""A block's self-attention, by diffusers' name in CogVideoX and Wan."""
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Its linear layers."""
QUERY_SIDE = ("to_q", "norm_q", "to_out")
"""What of it is used by queries alone."""


def own(module: nn.Module) -> nn.Module:
    """A copy of `module` in float32 that learns, on its device."""
    return copy.deepcopy(module).float().requires_grad_(True).train()


def freeze_unreached(block: nn.Module, parts: Sequence[str]) -> None:
    """Freezes what gets no gradient, or exactly zero, in an expert block whose output nobody reads.

    Its keys and values alone are read then: query projection and norm, output projection and all that follows
    attention in `parts`, the block's children in order, are out of reach. (The gates among the outputs of
    CogVideoX's `norm1.linear` and Wan's `scale_shift_table` are too, but are rows of parameters that learn.)
    """
    after = parts[parts.index(ATTENTION) + 1 :]
    unreached = tuple(f"{name}." for name in (*after, *(f"{ATTENTION}.{each}" for each in QUERY_SIDE)))
    for name, parameter in block.named_parameters():
        if name.startswith(unreached):
            parameter.requires_grad_(False)


def zero_linear(block: nn.Module) -> nn.Linear:
    """A linear layer of the block's width, all zeros, that learns: it says nothing until it has learned to."""
    like = block.get_submodule(f"{ATTENTION}.to_out.0")
    made = nn.Linear(like.out_features, like.out_features, device=like.weight.device, dtype=torch.float32)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank correction that learns: W x + b + B A x, with A of `rank` rows and B = 0 at first."""

    def __init__(self, linear: nn.Linear, rank: int, seed: int) -> None:
        super().__init__()
        self._linear = (linear,)
        device = linear.weight.device
        self.down = nn.Parameter(normal(seed, (rank, linear.in_features)).to(device) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The layer's output with the correction."""
        return self._linear[0](x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def low_rank_view(block: nn.Module, rank: int, number: int) -> nn.Module:
    """Block `number` with corrected attention projections. It shares the block's weights and leaves the block as it is."""
    weights = {id(each): each for each in (*block.parameters(), *block.buffers())}
    view = copy.deepcopy(block, weights)
    for name in PROJECTIONS:
        owner, _, child = f"{ATTENTION}.{name}".rpartition(".")
        linear = view.get_submodule(f"{ATTENTION}.{name}")
        setattr(view.get_submodule(owner), child, LowRank(linear, rank, seed_of(0, 0, number, name)))
    return view


def corrections(view: nn.Module) -> nn.ModuleDict:
    """The corrections of a view, by the projection's name without dots, e.g. `to_out_0`: what its method owns of it."""
    return nn.ModuleDict({name.replace(".", "_"): view.get_submodule(f"{ATTENTION}.{name}") for name in PROJECTIONS})
