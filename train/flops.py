"""What one sample costs in floating-point operations, and what share of a GPU's peak a run reaches (MFU).

Counted are the multiplications with weights and inside attention, a multiply-add as two, in one forward pass as the
method makes it, on tensors that have shapes but no contents. For every such operation, frozen weights being frozen:

    forward            linear: 2 tokens in out       attention: 2 * 2 B h S K d  (scores, and scores times values)
    backward, inputs   the same again when a gradient flows on from here: through a frozen layer, and not before the first
                       trained one
    backward, weights  the same again when the weight is trained
    attention          backward: half the forward for each of queries, keys and values that needs a gradient, and half for
                       the scores when queries or keys do: twice the forward when all three do

So full fine-tuning costs 3 forwards, a frozen block behind a trained one 2, a frozen block before all of them 1. What
checkpointing or a fused attention kernel computes a second time is left out: these are the model's operations.
Norms, activations, rotary positions and einsum are left out too: below one part in a hundred at real sizes.
Exercised by `pytest tests/train/test_flops.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from train.batch import Batch
from train.method import Backbone

PEAK_TFLOPS: Mapping[str, float] = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "A40": 150,
    "L4": 121,
    "RTX A6000": 155,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Part of a GPU's name -> dense bf16 peak in TFLOP/s by NVIDIA's data sheets (GeForce: with float32 accumulation)."""


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """What one sample costs."""

    flops: float
    """Forward and backward."""
    forward: float
    tokens: int
    """Video tokens: the target's and its references'."""


def per_sample(module: nn.Module, backbone: Backbone, batch: Batch) -> FlopCount:
    """The cost of one sample of `batch`, by one forward pass of the method's `module` that computes nothing.

    It takes a second or two for a real model, no memory to speak of, and leaves module and random state alone. The
    module's forward may not ask for the value of a tensor (`.item()`): here there is none.
    """
    device = next(backbone.transformer.parameters()).device
    mixed = {parameter.dtype for each in (backbone.transformer, module) for parameter in each.parameters()} & {torch.bfloat16, torch.float16}
    counter = Counter()
    with (
        torch.compiler.set_stance("force_eager"),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast(device.type, next(iter(mixed), torch.bfloat16), enabled=bool(mixed)),
        torch.enable_grad(),
    ):
        there = batch.to(device)
        with counter:
            module(there)
        sides = [there.target, *there.references]
        tokens = sum(math.prod(backbone.embed(side.video, there.timesteps, side).grid) for side in sides)
    size = len(batch.seeds)
    return FlopCount(flops=(counter.forward + counter.backward) / size, forward=counter.forward / size, tokens=tokens)


def mfu(flops_per_s: float, device: torch.device, dtype: torch.dtype, peak_tflops: float = 0.0) -> dict[str, float]:
    """{"mfu": share of one device's peak}; empty where the peak is not known: no GPU, one not listed, or not 16 bits.

    `peak_tflops` above 0 stands for the table.
    """
    if peak_tflops <= 0 and device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        peak_tflops = named_peak(torch.cuda.get_device_name(device))
    return {"mfu": flops_per_s / (peak_tflops * 1e12)} if peak_tflops > 0 else {}


def named_peak(name: str) -> float:
    """The peak (TFLOP/s) of a GPU of this name, by the longest entry that is part of it; 0 for one not listed."""
    found = [part for part in PEAK_TFLOPS if part in name]
    return PEAK_TFLOPS[max(found, key=len)] if found else 0.0


class Counter(TorchFunctionMode):
    """Adds up what torch is asked to multiply while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = 0

    def __torch_function__(self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is functional.scaled_dot_product_attention:
            self.attention(*_named(("query", "key", "value"), args, kwargs or {}))
        elif function in _CONVOLUTIONS:
            _, weight = operands = _named(("input", "weight"), args, kwargs or {})
            self._product(2 * result.numel() * weight[0].numel(), operands)
        elif function is functional.linear:
            _, weight = operands = _named(("input", "weight"), args, kwargs or {})
            self._product(2 * result.numel() * weight.shape[-1], operands)
        elif function in _MATRIX_PRODUCTS:
            operands = args[_MATRIX_PRODUCTS[function] :][:2]
            self._product(2 * result.numel() * operands[0].shape[-1], operands)
        return result

    def _product(self, operations: int, operands: Sequence[Tensor]) -> None:
        self.forward += operations
        if torch.is_grad_enabled():
            self.backward += operations * sum(each.requires_grad for each in operands)

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Counts one attention."""
        half = 2 * query.numel() * key.shape[-2]
        scores = 2 * (query.numel() // query.shape[-1]) * key.shape[-2] * value.shape[-1]
        self.forward += half + scores
        if torch.is_grad_enabled():
            asked = query.requires_grad or key.requires_grad
            self.backward += half * (query.requires_grad + key.requires_grad) + scores * (asked + value.requires_grad)


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_MATRIX_PRODUCTS: Mapping[Callable[..., Any], int] = {
    torch.matmul: 0,
    torch.bmm: 0,
    torch.mm: 0,
    torch.addmm: 1,
    torch.baddbmm: 1,
    Tensor.matmul: 0,
    Tensor.__matmul__: 0,
    Tensor.bmm: 0,
    Tensor.mm: 0,
}
"""Function -> position of its first factor."""


def _named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [args[place] if place < len(args) else kwargs[name] for place, name in enumerate(names)]
