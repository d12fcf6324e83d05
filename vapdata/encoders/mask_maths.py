"""From per-patch scores to masks: normalise, sharpen, smooth, fuse. Tensors in, tensors out.

The steps are those of API's CLIP variant (Yu et al. 2024, "Attention Prompting on Image"), which SSG-DiT's words
describe. Every function works on a batch of grids and treats each grid by itself.
Exercised by `pytest tests/vapdata/encoders/test_mask_maths.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROUNDING = 16
"""A grid whose spread is below this many rounding steps of its largest value holds no contrast, only noise."""


def minmax(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """(s - min) / (max - min) of each grid, in [0, 1]; a constant grid gives zeros."""
    low, spread, flat = _range(scores)
    return torch.where(flat, torch.zeros_like(scores), (scores - low) / spread)


def inverse_minmax(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """(max - s) / (max - min) of each grid, in [0, 1]; a constant grid gives zeros.

    Late CLIP patches resemble the text least where it speaks of them, hence the inversion (methods.md 4.3.6).
    """
    low, spread, flat = _range(scores)
    return torch.where(flat, torch.zeros_like(scores), 1 - (scores - low) / spread)


def enhance(scores: Float[Tensor, "b h w"], coefficient: float) -> Float[Tensor, "b h w"]:
    """sigmoid(coefficient * z) with z = (s - mean) / standard deviation (n - 1) of each grid; constant gives zeros."""
    _, _, flat = _range(scores)
    deviation, mean = torch.std_mean(scores, dim=(-2, -1), keepdim=True)
    sharpened = torch.sigmoid(coefficient * (scores - mean) / deviation.where(~flat, torch.ones_like(deviation)))
    return torch.where(flat, torch.zeros_like(scores), sharpened)


def smooth(grids: Float[Tensor, "b h w"], kernel: int) -> Float[Tensor, "b h w"]:
    """Mean over kernel x kernel neighbours (odd; 1 leaves the grid alone), edges replicated."""
    pad = kernel // 2
    padded = functional.pad(grids[:, None], (pad, pad, pad, pad), mode="replicate")
    return functional.avg_pool2d(padded, kernel, stride=1)[:, 0]


def attention_mask(scores: Float[Tensor, "b h w"], coefficient: float, kernel: int) -> Float[Tensor, "b h w"]:
    """Min-max, contrast enhancement, 3 x 3 mean: high where a patch's attention contribution points to the text."""
    return smooth(enhance(minmax(scores), coefficient), kernel)


def mlp_mask(scores: Float[Tensor, "b h w"], kernel: int, *, inverse: bool = True) -> Float[Tensor, "b h w"]:
    """Inverse (or plain) min-max, then the 3 x 3 mean."""
    return smooth(inverse_minmax(scores) if inverse else minmax(scores), kernel)


def fuse(first: Float[Tensor, "b h w"], second: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Probabilistic OR, a + b - ab: at least the larger of both, never above 1."""
    return (first + second - first * second).clamp(0, 1)


def _range(
    scores: Float[Tensor, "b h w"],
) -> tuple[Float[Tensor, "b 1 1"], Float[Tensor, "b 1 1"], Tensor]:
    """Minimum, spread (1 where flat, so that it divides), and whether the grid is constant up to rounding."""
    low, high = torch.aminmax(scores.flatten(1), dim=1)
    size = torch.maximum(low.abs(), high.abs())
    flat = (high - low) <= ROUNDING * torch.finfo(scores.dtype).eps * size
    spread = torch.where(flat, torch.ones_like(low), high - low)
    return low[:, None, None], spread[:, None, None], flat[:, None, None]
