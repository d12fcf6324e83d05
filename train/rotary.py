"""Rotary positions of video tokens from float positions along time, height and width.

diffusers' own tables start at frame 0 and have no offset. These take any positions and are equal to diffusers' bit for
bit where those are the pipeline's. Exercised by `pytest tests/train/test_rotary.py`.

Shapes: F frames, R rows, K columns of patches; L = F R K tokens, frame by frame and row by row; d head dim.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Where the patches of one clip stand."""

    frames: Float[Tensor, " F"]
    rows: Float[Tensor, " R"]
    columns: Float[Tensor, " K"]
    frame_step: float = 1.0
    """What one latent frame adds to a position along time."""
    column_step: float = 1.0
    """What one patch adds to a position along the width."""

    def moved(self, *, latent_frames: float = 0.0, patches: float = 0.0) -> "Positions":
        """The same patches, `latent_frames` later and `patches` further right."""
        return replace(self, frames=self.frames + latent_frames * self.frame_step, columns=self.columns + patches * self.column_step)


def cropped(grid: tuple[int, int, int], base: tuple[int, int], *, device: torch.device | None = None) -> Positions:
    """CogVideoX 1.0's positions for a grid (frames, rows, columns) of patches.

    `base` is the grid (rows, columns) that the backbone was trained at, 30 x 45 for 480 x 720. Another grid is stretched to
    it until the relatively longer side fits, and centred, so positions need not be whole. Equals `get_resize_crop_region_for_grid`
    with the linspace branch of `get_3d_rotary_pos_embed`.
    """
    frames, rows, columns = grid
    (top, left), (bottom, right) = _crop_region((rows, columns), base)
    return Positions(
        frames=torch.linspace(0, frames * (frames - 1) / frames, frames, device=device, dtype=torch.float32),
        rows=torch.linspace(top, bottom * (rows - 1) / rows, rows, device=device, dtype=torch.float32),
        columns=torch.linspace(left, right * (columns - 1) / columns, columns, device=device, dtype=torch.float32),
        column_step=(right - left) / columns,
    )


def counted(grid: tuple[int, int, int], *, patch_frames: int = 1, device: torch.device | None = None) -> Positions:
    """0, 1, 2 ... along each axis, a patch spanning `patch_frames` latent frames: CogVideoX 1.5, Wan, HunyuanVideo.

    Equals the slice branch of `get_3d_rotary_pos_embed`.
    """
    frames, rows, columns = (torch.arange(count, device=device, dtype=torch.float32) for count in grid)
    return Positions(frames=frames, rows=rows, columns=columns, frame_step=1 / patch_frames)


def table(
    positions: Positions, head_dim: int, *, shares: tuple[int, int, int] | None = None, theta: float = THETA, computed_in: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
    """cos and sin for every token, float32.

    Of d dimensions the first of `shares` turns with time, the second with height, the third with width: CogVideoX's d/4,
    3d/8 and 3d/8 unless others are given. Angles are `computed_in` this dtype: Wan's in float64.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    shares = shares or (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    axes = (positions.frames, positions.rows, positions.columns)
    turns = [get_1d_rotary_pos_embed(share, axis, theta=theta, use_real=True, freqs_dtype=computed_in) for share, axis in zip(shares, axes, strict=True)]
    cos, sin = (_spread([turn[part] for turn in turns]) for part in (0, 1))
    return cos, sin


def _spread(axes: list[Tensor]) -> Tensor:
    """Frames x rows x columns out of one table per axis, side by side along the dimensions."""
    frames, rows, columns = axes
    grid = (len(frames), len(rows), len(columns), -1)
    return torch.cat(
        [frames[:, None, None].expand(grid), rows[None, :, None].expand(grid), columns[None, None, :].expand(grid)],
        dim=-1,
    ).flatten(0, 2)


def _crop_region(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left and bottom right corner of `grid`, made to fit into `base` and centred there; halves round to even."""
    if grid[0] / grid[1] > base[0] / base[1]:
        size = (base[0], round(base[0] / grid[0] * grid[1]))
    else:
        size = (round(base[1] / grid[1] * grid[0]), base[1])
    top, left = (round((whole - part) / 2.0) for whole, part in zip(base, size, strict=True))
    return (top, left), (top + size[0], left + size[1])
