"""Where and how precisely models compute: the GPU in bf16 when there is one, else the CPU in float32.

Exercised by `pytest tests/vapdata/test_device.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vapdata.errors import ClipError, Transient


def pick(device: str | None) -> str:
    """`device` itself, or `cuda` when torch sees a GPU, else `cpu`."""
    import torch

    if device is not None:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(device: str) -> Any:
    """The torch dtype of weights and activations there: bfloat16 on a GPU, float32 on a CPU."""
    import torch

    return torch.float32 if device.startswith("cpu") else torch.bfloat16


def groups(count: int, device: str, size: int) -> Iterator[slice]:
    """Slices of at most `size` items on a GPU, and of one on a CPU.

    Matrix products of another size round differently: one by one, a row does not depend on its neighbours. The price on a
    CPU was measured with the tiny models: eight at once take 0.30 to 0.85 of the time (benchmarks/RESULTS.md).
    """
    step = 1 if device.startswith("cpu") else size
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


@contextmanager
def out_of_memory(encoder: str, remedy: str) -> Iterator[None]:
    """Turns torch's out-of-memory error into Transient: another worker may have held the memory."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise Transient(f"{encoder}: the GPU ran out of memory. {remedy}") from error


def finite(array: np.ndarray, product: str, clip_id: str | None) -> np.ndarray:
    """`array` itself; raises ClipError when it holds NaN or infinity, which a catalog never stores."""
    if np.isfinite(array).all():
        return array
    bad = int(array.size - np.isfinite(array).sum())
    raise ClipError(
        f"{product}: {bad} of {array.size} values for clip {clip_id} are NaN or infinite, wanted none. "
        "Look at the clip's pixels and caption, then: vapdata retry"
    )


def grid(frames: np.ndarray | None, clip_id: str, wanted: Sequence[int]) -> np.ndarray:
    """`frames` (t, h, w, 3), or the single picture, checked against the size that the encoder was built for."""
    if frames is None or tuple(frames.shape) != tuple(wanted):
        got = "no frames" if frames is None else f"frames of shape {tuple(frames.shape)}"
        raise ValueError(f"{clip_id}: got {got}, wanted {tuple(wanted)}: sample as the encoder's `sampling` says")
    return frames
