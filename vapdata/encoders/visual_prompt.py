"""The visual prompt: a picture that is sharp where the mask is high and blurred where it is low.

A function of the stored first frame and the stored mask; nothing of it lies in the catalog, so blur and strength stay
free. Exercised by `pytest tests/vapdata/encoders/test_visual_prompt.py`.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

BLUR_SHARE = 0.02
"""Standard deviation of the blur as a share of the shorter side; the paper names none (methods.md 4.3.14)."""


def visual_prompt(
    frame: UInt8[np.ndarray, "height width 3"],
    mask: Float[np.ndarray, "gh gw"],
    blur_sigma: float | None = None,
    alpha: float = 1.0,
    renormalise: Literal["minmax", "clamp"] = "minmax",
) -> UInt8[np.ndarray, "height width 3"]:
    """M' I + (1 - M') Blur(I) with M' = 1 - alpha (1 - M): SSG-DiT's I' at alpha 1, the frame itself at 0.

    `mask` is one stored grid, of which M is the bicubic enlargement. `blur_sigma` in pixels (None: 2 % of the shorter
    side; 0: no blur). Every pixel lies between the sharp and the blurred one.
    """
    picture = torch.from_numpy(np.array(frame)).permute(2, 0, 1).float()
    masks = torch.from_numpy(np.array(mask, dtype=np.float32))
    prompt = visual_prompts(picture[None], masks[None], blur_sigma, alpha, renormalise)[0]
    return prompt.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def visual_prompts(
    pictures: Float[Tensor, "b c height width"],
    masks: Float[Tensor, "b gh gw"],
    blur_sigma: float | None = None,
    alpha: float = 1.0,
    renormalise: Literal["minmax", "clamp"] = "minmax",
) -> Float[Tensor, "b c height width"]:
    """`visual_prompt` of a batch, not rounded, in the pictures' own range and on their device. No value of a tensor is asked for."""
    height, width = pictures.shape[2:]
    sigma = BLUR_SHARE * min(height, width) if blur_sigma is None else blur_sigma
    weight = 1 - alpha * (1 - upsample(masks, height, width, renormalise))
    blurred = blur(pictures.flatten(0, 1), sigma).unflatten(0, pictures.shape[:2])
    return blend(pictures, blurred, weight[:, None])


def upsample(
    mask: Float[Tensor, "*b gh gw"], height: int, width: int, renormalise: Literal["minmax", "clamp"] = "minmax"
) -> Float[Tensor, "*b height width"]:
    """`mask` enlarged to a picture's size, in [0, 1]: bicubic, corners not aligned; each mask of a batch by itself.

    Bicubic overshoots. `minmax` stretches the result to [0, 1] (the paper), `clamp` cuts it off; a mask that is constant up to
    rounding keeps its value either way.
    """
    grids = mask.reshape(-1, 1, *mask.shape[-2:])
    large = functional.interpolate(grids, size=(height, width), mode="bicubic", align_corners=False)
    if renormalise == "minmax":
        low, high = large.amin(dim=(-2, -1), keepdim=True), large.amax(dim=(-2, -1), keepdim=True)
        spread = grids.amax(dim=(-2, -1), keepdim=True) - grids.amin(dim=(-2, -1), keepdim=True)
        constant = spread <= 16 * torch.finfo(mask.dtype).eps * grids.abs().amax(dim=(-2, -1), keepdim=True)
        large = torch.where(constant, large, (large - low) / torch.where(constant, 1, high - low))
    return large.clamp(0, 1).reshape(*mask.shape[:-2], height, width)


def blur(picture: Float[Tensor, "c height width"], sigma: float) -> Float[Tensor, "c height width"]:
    """Gaussian blur with a kernel of 6 sigma + 1 pixels, edges replicated; sigma 0 returns `picture`."""
    radius = round(3 * sigma)
    if radius == 0:
        return picture
    offsets = torch.arange(-radius, radius + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(picture[:, None], (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0]


def blend(
    sharp: Float[Tensor, "*b c height width"],
    blurred: Float[Tensor, "*b c height width"],
    weight: Float[Tensor, "... height width"],
) -> Float[Tensor, "*b c height width"]:
    """Weighted mean, weight * sharp + (1 - weight) * blurred; exactly `sharp` where both agree."""
    return blurred + weight * (sharp - blurred)
