"""AdamW, its learning-rate schedule, gradient clipping and the moving average of the weights.

Exercised by `pytest tests/train/test_optimizer.py`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vapdata.errors import CallError

Schedule = Literal["constant", "cosine", "cosine_restarts"]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW with warm-up, one of three schedules and clipping by global norm."""

    lr: float = 1e-5
    """Peak learning rate."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global gradient norm; 0 clips nothing."""
    warmup: int = 200
    """Steps over which the rate rises linearly from lr / warmup."""
    schedule: Schedule = "constant"
    cycles: int = 1
    """cosine_restarts: how often the rate falls to nothing."""
    ema: float = 0.0
    """Decay per step of the weights' moving average, e.g. 0.999; 0 keeps none."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.eps > 0 and self.weight_decay >= 0 and self.clip >= 0 and self.warmup >= 0 and self.cycles >= 1):
            raise CallError(f"optimizer: got {self}; lr and eps must be above 0, cycles 1 or more, the others 0 or more. Type e.g. --set optimizer.lr=1e-4")
        if not all(0 <= each < 1 for each in (self.beta1, self.beta2, self.ema)):
            raise CallError(f"optimizer: got beta1={self.beta1:g} beta2={self.beta2:g} ema={self.ema:g}; each is at least 0 and below 1. Type e.g. --set optimizer.beta2=0.99")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """AdamW over what is trained, by torch's fused kernel: a quarter of the time that its plain loop takes on a CPU.

        What is split over processes and what is whole (scalars beside it) form a group each, for the kernel takes one kind at a time.
        Where nothing is trained there is an empty tensor, for torch refuses none at all.
        """
        listed = list(parameters) or [nn.Parameter(torch.empty(0))]
        groups = [{"params": kind} for split in (True, False) if (kind := [each for each in listed if isinstance(each, DTensor) is split])]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay, fused=True)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimiser step `step` (from 0) of `steps`.

        constant: lr. cosine: lr * (1 + cos(pi p)) / 2. cosine_restarts: the same with p taken modulo 1 after
        multiplying by `cycles`; p is the share of the steps after the warm-up that lie behind.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        share = (step - self.warmup) / max(1, steps - self.warmup)
        turns = (share * self.cycles) % 1.0 if self.schedule == "cosine_restarts" else min(share, 1.0)
        return self.lr * (1 + math.cos(math.pi * turns)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Every parameter group goes on at `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that gets a gradient."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def averages(module: nn.Module) -> dict[str, Tensor]:
    """Where a moving average begins: copies of the trained parameters."""
    return {name: parameter.detach().clone() for name, parameter in trained(module).items()}


def average(ema: Mapping[str, Tensor], module: nn.Module, decay: float) -> None:
    """One step of the moving average, in place: ema <- decay * ema + (1 - decay) * weight."""
    with torch.no_grad():
        for name, parameter in trained(module).items():
            ema[name].lerp_(parameter.detach(), 1 - decay)
