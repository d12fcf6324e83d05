"""Rotary tables: diffusers' own bit for bit at offset 0, moved along one axis alone otherwise."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import get_resize_crop_region_for_grid
from torch import Tensor

from train.rotary import Positions, counted, cropped, table

GRIDS = [(13, 30, 45), (4, 30, 45), (1, 6, 10), (3, 30, 30), (2, 45, 30), (5, 48, 85), (2, 7, 31), (3, 1, 1)]


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("grid", GRIDS)
def test_at_offset_0_the_table_is_diffusers_own_bit_for_bit(grid: tuple[int, int, int], head_dim: int) -> None:
    crop = get_resize_crop_region_for_grid(grid[1:], 45, 30)
    theirs = get_3d_rotary_pos_embed(head_dim, crop, grid[1:], grid[0])
    ours = table(cropped(grid, (30, 45)).moved(), head_dim)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    theirs = get_3d_rotary_pos_embed(head_dim, None, grid[1:], grid[0], grid_type="slice", max_size=(150, 150))
    ours = table(counted(grid, patch_frames=2).moved(), head_dim)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_the_native_grid_counts_patches() -> None:
    positions = cropped((13, 30, 45), (30, 45))
    assert positions.rows.tolist() == list(range(30)) and positions.columns.tolist() == list(range(45))
    torch.testing.assert_close(positions.frames, torch.arange(13.0))
    assert positions.column_step == 1


def by_axis(moved: Positions, head_dim: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """cos and sin side by side, apart by what their dimensions follow."""
    both = torch.stack(table(moved, head_dim))
    return both[..., : head_dim // 4], both[..., head_dim // 4 : head_dim // 8 * 5], both[..., head_dim // 8 * 5 :]


def test_an_offset_in_time_moves_the_first_quarter_of_the_dimensions_alone() -> None:
    here = cropped((13, 6, 10), (30, 45))
    stay, moved = by_axis(here), by_axis(here.moved(latent_frames=-13))
    assert not torch.equal(stay[0], moved[0])
    assert torch.equal(stay[1], moved[1]) and torch.equal(stay[2], moved[2])


def test_an_offset_along_the_width_moves_the_last_dimensions_alone() -> None:
    here = cropped((2, 15, 15), (30, 45))
    assert here.column_step == 2  # stretched to the native grid's height
    moved = here.moved(patches=-15)
    torch.testing.assert_close(moved.columns, here.columns - 30)
    first, second = by_axis(here), by_axis(moved)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[2], second[2])


def test_positions_before_the_target_go_on_where_it_begins() -> None:
    target, reference = cropped((13, 2, 2), (30, 45)), cropped((13, 2, 2), (30, 45)).moved(latent_frames=-13)
    torch.testing.assert_close(torch.cat([reference.frames, target.frames]), torch.arange(-13.0, 13.0))
    halves = counted((6, 2, 2), patch_frames=2).moved(latent_frames=-12)
    assert halves.frames.tolist() == [-6, -5, -4, -3, -2, -1]


def test_a_common_shift_leaves_scores_as_they_are_and_a_shift_of_one_side_does_not() -> None:
    # V4: what rotary positions mean to attention is how far apart two tokens are.
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 5 * 4, 64, generator=generator) for _ in range(2))
    here = cropped((5, 2, 2), (30, 45))

    def scores(of_query: Positions, of_key: Positions) -> Tensor:
        return apply_rotary_emb(query, table(of_query, 64)) @ apply_rotary_emb(key, table(of_key, 64)).transpose(-1, -2)

    away = here.moved(latent_frames=-5)
    torch.testing.assert_close(scores(away, away), scores(here, here), rtol=1e-5, atol=2e-5)
    assert float((scores(here, away) - scores(here, here)).abs().max()) > 0.5


def test_positions_need_not_be_whole() -> None:
    half = table(counted((1, 1, 1)).moved(latent_frames=0.5), 16)
    assert float(half[0][0, 0]) == pytest.approx(float(torch.cos(torch.tensor(0.5))))
    assert float(half[1][0, 0]) == pytest.approx(float(torch.sin(torch.tensor(0.5))))
