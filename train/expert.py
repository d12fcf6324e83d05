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


def own(module: nn.Module) -> nn.Module:
    """A copy of `module` in float32 that learns, on its device."""
    return copy.deepcopy(module).float().requires_grad_(True).train()


def freeze(module: nn.Module, parts: Sequence[str]) -> None:
    """Freezes the submodules of these names: those that get no gradient, or exactly zero, for nobody reads what they make.

    Of an expert block whose output nobody reads, keys and values alone are read, so all of `Backbone.after_keys` is out
    of reach. (The gates among the outputs of CogVideoX's `norm1.linear` and Wan's `scale_shift_table` are too, but are
    rows of parameters that learn.)
    """
    for name in parts:
        module.get_submodule(name).requires_grad_(False)


def zero_linear(like: nn.Module) -> nn.Linear:
    """A linear layer as wide as `like`'s output, all zeros, that learns: it says nothing until it has learned to."""
    made = nn.Linear(like.out_features, like.out_features, device=like.weight.device, dtype=torch.float32)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def zero_projection(width: int, like: nn.Module) -> nn.Linear:
    """A linear layer without bias from `width` to `like`'s output, all zeros, that learns."""
    made = nn.Linear(width, like.out_features, bias=False, device=like.weight.device, dtype=torch.float32)
    nn.init.zeros_(made.weight)
    return made


def with_own(block: nn.Module, name: str) -> nn.Module:
    """A view of `block` in which the submodule of this name is a copy of its own that learns; the rest are the block's very weights."""
    weights = {id(each): each for each in (*block.parameters(), *block.buffers())}
    view = copy.deepcopy(block, weights)
    owner, _, child = name.rpartition(".")
    setattr(view.get_submodule(owner), child, own(block.get_submodule(name)))
    return view


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


def low_rank_view(block: nn.Module, projections: Sequence[str], rank: int, number: int) -> nn.Module:
    """Block `number` with these linear layers corrected. It shares the block's weights and leaves the block as it is."""
    weights = {id(each): each for each in (*block.parameters(), *block.buffers())}
    view = copy.deepcopy(block, weights)
    for name in projections:
        owner, _, child = name.rpartition(".")
        linear = view.get_submodule(name)
        setattr(view.get_submodule(owner), child, LowRank(linear, rank, seed_of(0, 0, number, _short(name))))
    return view


def corrections(view: nn.Module) -> nn.ModuleDict:
    """The corrections of a view, by the layer's name within attention, dots made `_`, e.g. `to_out_0`: what its method owns of it."""
    found = {name: each for name, each in view.named_modules() if isinstance(each, LowRank)}
    return nn.ModuleDict({_short(name).replace(".", "_"): each for name, each in found.items()})


def _short(name: str) -> str:
    """`attn1.to_out.0` -> `to_out.0`."""
    return name.partition(".")[2] or name
