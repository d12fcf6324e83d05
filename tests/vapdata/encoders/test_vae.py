"""Vae on the tiny AutoencoderKLCogVideoX, against diffusers' own encode."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from vapdata.backbones import backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders.vae import OpenVae, Vae, estimated_gb
from vapdata.errors import CallError, ClipError


@pytest.fixture
def spec(tiny_models: Path, sampling: Sampling) -> Vae:
    """The tiny recipe's latents."""
    return Vae(backbone="tiny-cogvideox", sampling=sampling)


@pytest.fixture
def theirs(tiny_models: Path) -> AutoencoderKLCogVideoX:
    """The same weights in diffusers' hands."""
    return AutoencoderKLCogVideoX.from_pretrained(tiny_models / "vae").eval()


def library_posterior(model: AutoencoderKLCogVideoX, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance as a user of diffusers would get them."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        latent = model.encode(pixels).latent_dist
    return latent.mean[0].numpy(), latent.logvar[0].numpy()


def test_the_latent_is_the_librarys_mean_unscaled(spec: Vae, theirs: AutoencoderKLCogVideoX, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample()])
    np.testing.assert_allclose(cell.data, library_posterior(theirs, sample().frames)[0], atol=1e-5, rtol=1e-5)


def test_logvar_follows_the_mean_along_the_channels(spec: Vae, theirs: AutoencoderKLCogVideoX, sample: Callable[..., Sample]) -> None:
    both = dataclasses.replace(spec, logvar=True)
    ((cell,),) = both.open("cpu").encode([sample()])
    np.testing.assert_allclose(cell.data, np.concatenate(library_posterior(theirs, sample().frames)), atol=1e-5, rtol=1e-5)
    assert cell.shape == (32, 3, 12, 20)
    assert cell.columns["has_logvar"] is True
    assert both.products()[0].settings != spec.products()[0].settings


def test_what_is_declared_is_what_is_written(spec: Vae, sample: Callable[..., Sample]) -> None:
    opened, (product,) = spec.open("cpu"), spec.products()
    ((cell,),) = opened.encode([sample()])
    assert cell.product == product.name == "tiny-cogvideox-vae-9x96x160-8fps"
    assert cell.data.dtype == np.float32
    assert cell.shape == cell.data.shape == (16, 3, 12, 20)
    assert cell.columns == {
        "resize": "stretch",
        "pixel_height": 96,
        "pixel_width": 160,
        "kind": "video",
        "pixel_frames": 9,
        "fps": 8.0,
        "latent_frames": 3,
        "temporal_stride": 4,
        "first_alone": True,
        "has_logvar": False,
    }
    assert (product.table, product.dtype, product.reads_caption) == ("latents", "bf16", False)
    assert cell.caption is None
    assert opened.constants() == []


@pytest.mark.parametrize("frames", [1, 8, 9, 16, 17, 24, 25])
@pytest.mark.slow
def test_the_frame_law_says_what_the_class_does(tiny_models: Path, sample: Callable[..., Sample], frames: int) -> None:
    grid = Sampling(frames=frames, height=32, width=32, fps=8)
    spec = Vae(backbone="tiny-cogvideox", sampling=grid)
    ((cell,),) = spec.open("cpu").encode([sample(grid=grid)])
    law = spec.facts.vae.law
    assert cell.shape[1] == cell.columns["latent_frames"] == law.latent_frames(frames)
    assert cell.columns["first_alone"] == law.first_alone(frames)


@pytest.mark.parametrize(("frames", "alone"), [(9, True), (8, False)])
def test_the_first_latent_sees_later_frames_only_where_it_does_not_stand_alone(
    tiny_models: Path, sample: Callable[..., Sample], frames: int, alone: bool
) -> None:
    grid = Sampling(frames=frames, height=32, width=32, fps=8)
    opened = Vae(backbone="tiny-cogvideox", sampling=grid).open("cpu")
    # Group norms average over time and would let every frame see every other.
    for module in opened._model.encoder.modules():
        if hasattr(module, "norm1"):
            module.norm1, module.norm2 = torch.nn.Identity(), torch.nn.Identity()
    opened._model.encoder.norm_out = torch.nn.Identity()
    one = sample(grid=grid)
    changed = one.frames.copy()
    changed[1:] = 255 - changed[1:]
    moved = np.abs(opened.posterior(changed) - opened.posterior(one.frames)).max(axis=(0, 2, 3))
    assert (moved[0] == 0) == alone
    assert (moved[1:] > 0).all()


@pytest.mark.parametrize("frames", [2, 12, 50])
def test_illegal_frame_counts_are_refused_when_the_recipe_is_made(frames: int) -> None:
    with pytest.raises(CallError, match=r"Use .* frames"):
        Vae(backbone="tiny-cogvideox", sampling=Sampling(frames=frames, height=96, width=160, fps=8))


@pytest.mark.parametrize(("height", "width", "hint"), [(100, 160, "Use 96 or 112"), (96, 168, "Use 160 or 176"), (8, 160, "Use 16 or 32")])
def test_sizes_that_do_not_fit_the_patches_are_refused(height: int, width: int, hint: str) -> None:
    with pytest.raises(CallError, match=hint):
        Vae(backbone="tiny-cogvideox", sampling=Sampling(frames=9, height=height, width=width, fps=8))


def test_a_row_does_not_depend_on_its_batch(spec: Vae, sample: Callable[..., Sample]) -> None:
    opened = spec.open("cpu")
    together = opened.encode([sample(0), sample(1)])
    for cells, one in zip(together, (sample(0), sample(1)), strict=True):
        np.testing.assert_array_equal(cells[0].data, opened.encode([one])[0][0].data)


@pytest.mark.slow
def test_a_decoded_latent_has_the_clips_shape(spec: Vae, theirs: AutoencoderKLCogVideoX, sample: Callable[..., Sample]) -> None:
    ((cell,),) = spec.open("cpu").encode([sample()])
    with torch.no_grad():
        assert theirs.decode(torch.from_numpy(cell.data)[None]).sample.shape == (1, 3, 9, 96, 160)


def test_tiling_is_decided_by_the_settings_and_recorded(spec: Vae, sample: Callable[..., Sample]) -> None:
    tiled = dataclasses.replace(spec, tile_above_gb=0.01)
    assert (spec.tiled, tiled.tiled) == (False, True)
    assert tiled.products()[0].settings["tiled"] is True
    ((cell,),) = tiled.open("cpu").encode([sample()])
    assert cell.shape == (16, 3, 12, 20)
    assert np.isfinite(cell.data).all()


def test_the_papers_sizes_are_encoded_whole_and_full_hd_in_tiles() -> None:
    big = Sampling(frames=49, height=1088, width=1920, fps=8)
    assert Vae(backbone="cogvideox-2b", sampling=big).tiled
    assert not Vae(backbone="cogvideox-2b", sampling=dataclasses.replace(big, height=480, width=720)).tiled
    for name, size, wanted in (("cogvideox-2b", (480, 720), 6.4), ("wan2.1-t2v-1.3b", (480, 832), 7.7), ("hunyuanvideo-i2v", (544, 960), 14.8)):
        assert estimated_gb(backbone(name).vae, *size) == pytest.approx(wanted, abs=0.1)


def test_names_of_tiny_and_real_do_not_collide(tiny_models: Path, sampling: Sampling) -> None:
    names = [Vae(backbone=name, sampling=sampling).products()[0].name for name in ("tiny", "cogvideox-2b", "cogvideox-5b-i2v")]
    assert names == ["tiny-cogvideox-vae-9x96x160-8fps", "cogvideox-2b-vae-9x96x160-8fps", "cogvideox-5b-vae-9x96x160-8fps"]


def test_frames_of_another_count_are_refused(spec: Vae, sample: Callable[..., Sample]) -> None:
    with pytest.raises(ValueError, match=r"wanted \(9, 96, 160, 3\)"):
        spec.open("cpu").encode([dataclasses.replace(sample(), frames=sample().frames[:5])])


def test_a_latent_that_is_not_finite_fails_the_clip(spec: Vae, sample: Callable[..., Sample]) -> None:
    opened: OpenVae = spec.open("cpu")
    opened._model.encoder.conv_out.conv.bias.fill_(float("nan"))
    with pytest.raises(ClipError, match="values for clip made/0 are NaN or infinite"):
        opened.encode([sample()])
