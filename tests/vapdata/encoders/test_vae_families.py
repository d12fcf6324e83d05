"""The latents of every VAE class against diffusers' own encode, and what differs between the classes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from vapdata import tiny
from vapdata.backbones import backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.errors import CallError

TINY = ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan")
CLOSE = 1e-5
"""Largest difference allowed: 3.1e-6 measured, for an encoder takes another convolution kernel than a single clip alone (see vae.py)."""


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("frames", [1, 9, 17])
@pytest.mark.slow
def test_the_latent_is_the_librarys_mean_unscaled(tiny_models: Path, sample: Callable[..., Sample], name: str, frames: int) -> None:
    grid = Sampling(frames=frames, height=48, width=64, fps=16)
    one = sample(grid=grid)
    ((cell,),) = Vae(backbone=name, sampling=grid).open("cpu").encode([one])
    model = getattr(diffusers, backbone(name).vae.model_class).from_pretrained(tiny.folder(name) / "vae").eval()
    pixels = torch.from_numpy(one.frames).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        latent = model.encode(pixels).latent_dist.mean[0].numpy()
    assert cell.shape == latent.shape == (16, (frames + 3) // 4, 6, 8)
    assert cell.product == f"{name}-vae-{frames}x48x64-16fps"
    assert np.abs(cell.data - latent).max() < CLOSE * max(1, np.abs(latent).max())
    assert cell.data.std() > 0.01


@pytest.mark.parametrize("name", TINY)
def test_one_clip_and_eight_give_the_same_rows(tiny_models: Path, sample: Callable[..., Sample], name: str) -> None:
    grid = Sampling(frames=5 if name != "tiny-cogvideox" else 9, height=32, width=32, fps=16)
    opened = Vae(backbone=name, sampling=grid).open("cpu")
    eight = [sample(number, grid=grid) for number in range(8)]
    for one, cells in zip(eight, opened.encode(eight), strict=True):
        np.testing.assert_array_equal(cells[0].data, opened.encode([one])[0][0].data)


@pytest.mark.parametrize("name", ["tiny-wan", "tiny-hunyuan"])
def test_the_first_frames_latent_is_the_clips_first(tiny_models: Path, sample: Callable[..., Sample], name: str) -> None:
    grid = Sampling(frames=5, height=32, width=32, fps=16)
    one = sample(grid=grid)
    ((clip,),) = Vae(backbone=name, sampling=grid).open("cpu").encode([one])
    ((first,),) = VaeFirst(backbone=name, sampling=grid).open("cpu").encode([one])
    difference = np.abs(first.data[:, 0] - clip.data[:, 0]).max()
    # Wan's classes work causally; HunyuanVideo's group norms average over all frames of a piece.
    assert difference < CLOSE if name == "tiny-wan" else difference > CLOSE


@pytest.mark.parametrize("name", ["tiny-wan", "tiny-hunyuan"])
def test_two_first_frames_are_refused_where_the_second_would_be_left_out(name: str, sampling: Sampling) -> None:
    with pytest.raises(CallError, match="would leave the second out. Use 1"):
        VaeFirst(backbone=name, sampling=sampling, first=2)


@pytest.mark.parametrize("frames", [8, 16, 50])
def test_counts_other_than_4k_plus_1_are_refused(frames: int) -> None:
    with pytest.raises(CallError, match="do not fit the Wan VAE: sampling.frames must be 1, 4k"):
        Vae(backbone="tiny-wan", sampling=Sampling(frames=frames, height=96, width=160, fps=16))


@pytest.mark.parametrize("name", ["tiny-wan", "tiny-hunyuan"])
@pytest.mark.slow
def test_tiles_are_blended_and_recorded(tiny_models: Path, sample: Callable[..., Sample], name: str) -> None:
    grid = Sampling(frames=5, height=272, width=288, fps=16)
    tiled = Vae(backbone=name, sampling=grid, tile_above_gb=0.001)
    whole = dataclasses.replace(tiled, tile_above_gb=24.0)
    assert (tiled.tiled, whole.tiled) == (True, False)
    ((one,),), ((other,),) = (spec.open("cpu").encode([sample(grid=grid)]) for spec in (tiled, whole))
    assert one.shape == other.shape == (16, 2, 34, 36)
    assert not np.array_equal(one.data, other.data)


def test_the_backbones_of_one_family_share_their_latents(sampling: Sampling) -> None:
    first, *others = (Vae(backbone=name, sampling=sampling).products() for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b-480p"))
    assert [product.name for product in first] == ["wan2.1-vae-9x96x160-8fps"]
    assert others == [first, first]
