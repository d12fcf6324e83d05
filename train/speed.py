"""What a step took: rates, the share of time that the loader was waited for, memory, and model FLOPs.

What each number means stands at the head of train/record.py. Exercised by `pytest tests/train/test_loop.py`.
"""

import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.batch import Batch
from train.data import Step
from train.flops import FlopCount, mfu, per_sample
from train.method import Backbone
from train.world import World


class Speed:
    """Turns seconds into rates. What a sample costs is counted once for each shape of latents."""

    def __init__(self, module: nn.Module, backbone: Backbone, world: World, dtype: torch.dtype, peak_tflops: float) -> None:
        self._module, self._backbone, self._world, self._dtype, self._peak_tflops = module, backbone, world, dtype, peak_tflops
        self._costs: dict[tuple[object, ...], FlopCount] = {}

    def know(self, batches: Iterable[Batch]) -> None:
        """Counts what a sample of each batch costs beforehand: once weights are split, no process can make a forward pass alone."""
        for batch in batches:
            self._cost(batch)

    def row(self, step: Step, *, seconds: float, waited_s: float, bytes_read: float) -> dict[str, Any]:
        """The rates of one step; `waited_s` and `bytes_read` are sums over all processes."""
        cost = self._cost(step.micro[0])
        per_second = step.size / seconds
        return {
            "samples": step.size,
            "seconds": round(seconds, 6),
            "samples_per_s": per_second,
            "tokens_per_s": per_second * cost.tokens,
            "wait_share": min(1.0, waited_s / self._world.ranks / seconds),
            "mb_per_s": bytes_read / 1e6 / seconds,
            "peak_memory_gb": peak_memory_gb(self._world.device),
            "model_tflops": step.size * cost.flops / 1e12,
            **mfu(cost.flops * per_second / self._world.ranks, self._world.device, self._dtype, self._peak_tflops),
        }

    def _cost(self, batch: Batch) -> FlopCount:
        shape = tuple(side.video.shape[1:] for side in (batch.target, *batch.references))
        if shape not in self._costs:
            self._costs[shape] = per_sample(self._module, self._backbone, batch)
        return self._costs[shape]


_STATUS = Path("/proc/self/status")


def peak_memory_gb(device: torch.device) -> float:
    """GB at the peak: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if _STATUS.exists():  # Linux: getrusage would count what the parent held when it started this process
        return int(re.findall(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[0]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6  # bytes there, kibibytes elsewhere
