"""VaeCondition against the `prepare_latents` of diffusers' own image-to-video pipelines, on the same weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline, WanImageToVideoPipeline
from PIL import Image

from vapdata import tiny
from vapdata.backbones import VaeFacts, backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders.vae_condition import VaeCondition, transformer_input
from vapdata.errors import CallError

CLOSE = 1e-5
"""Largest difference allowed in scaled latents: 3.1e-6 measured, for an encoder takes another convolution kernel than a single clip alone."""
TEXT_TO_VIDEO = ("cogvideox-2b", "wan2.1-t2v-1.3b")


def library_vae(name: str, tiny_models: Path) -> Any:
    """The tiny backbone's VAE in diffusers' hands; `tiny_models` says where such models are."""
    folder = tiny.folder(name)
    assert folder.parent == tiny_models.parent
    return getattr(diffusers, backbone(name).vae.model_class).from_pretrained(folder / "vae").eval()


def pipeline_of(kind: Any, vae: Any) -> Any:
    """The pipeline with nothing but its VAE: `prepare_latents` asks for no more."""
    names = [name for name in kind.__init__.__annotations__ if name not in ("vae", "boundary_ratio", "expand_timesteps", "return")]
    return kind(vae=vae, **dict.fromkeys(names))


def arguments(pipeline: Any, sample: Sample, sampling: Sampling) -> dict[str, Any]:
    """What the pipeline's `__call__` passes on of a picture."""
    image = pipeline.video_processor.preprocess(Image.fromarray(sample.first), height=sampling.height, width=sampling.width)
    size = {"height": sampling.height, "width": sampling.width, "num_frames": sampling.frames}
    return {"image": image, "batch_size": 1, "num_channels_latents": 16, "dtype": torch.float32, "device": torch.device("cpu"), **size}


def scaled(latent: np.ndarray, vae: VaeFacts) -> np.ndarray:
    """A stored latent as a trainer loads it."""
    mean = np.array(vae.mean or [0.0], np.float32).reshape(-1, 1, 1, 1)
    std = np.array(vae.std or [1.0], np.float32).reshape(-1, 1, 1, 1)
    return (latent - mean) / std * np.float32(vae.scaling_factor)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_wan_is_given_what_its_pipeline_prepares(tiny_models: Path, sample: Callable[..., Sample], frames: int) -> None:
    grid = Sampling(frames=frames, height=48, width=64, fps=16)
    one = sample(grid=grid)
    ((cell,),) = VaeCondition(backbone="tiny-wan", sampling=grid).open("cpu").encode([one])
    pipeline = pipeline_of(WanImageToVideoPipeline, library_vae("tiny-wan", tiny_models))
    with torch.no_grad():
        _, condition = pipeline.prepare_latents(**arguments(pipeline, one, grid))
    facts = backbone("tiny-wan")
    ours = transformer_input(scaled(cell.data, facts.vae), "zero_frames", facts.vae.law.latent_frames(frames))
    assert ours.shape == condition.shape[1:] == (20, (frames + 3) // 4, 6, 8)
    np.testing.assert_array_equal(ours[:4], condition[0, :4].numpy())
    assert np.abs(ours - condition[0].numpy()).max() < CLOSE


@pytest.mark.parametrize("mode", ["token_replace", "latent_concat"])
def test_hunyuan_is_given_what_its_pipeline_prepares(tiny_models: Path, sample: Callable[..., Sample], sampling: Sampling, mode: str) -> None:
    one = sample()
    ((cell,),) = VaeCondition(backbone="tiny-hunyuan", sampling=sampling).open("cpu").encode([one])
    pipeline = pipeline_of(HunyuanVideoImageToVideoPipeline, library_vae("tiny-hunyuan", tiny_models))
    with torch.no_grad():
        _, condition = pipeline.prepare_latents(**arguments(pipeline, one, sampling), image_condition_type=mode)
    if mode == "latent_concat":  # what `__call__` does next
        condition[:, :, 1:] = 0
        mask = condition.new_ones(1, 1, *condition.shape[2:])
        mask[:, :, 1:] = 0
        condition = torch.cat([condition, mask], dim=1)
    facts = backbone("tiny-hunyuan")
    ours = transformer_input(scaled(cell.data, facts.vae), mode, 3)
    assert ours.shape == condition.shape[1:] == ((16, 1, 12, 20) if mode == "token_replace" else (17, 3, 12, 20))
    assert np.abs(ours - condition[0].numpy()).max() < CLOSE


def test_cogvideox_pads_the_first_latent_with_zeros() -> None:
    first = np.ones((16, 1, 2, 3), np.float32)
    padded = transformer_input(first, "zero_latents", 4)
    assert padded.shape == (16, 4, 2, 3)
    assert (padded[:, 0] == 1).all()
    assert not padded[:, 1:].any()


def test_what_is_declared_is_what_is_written(tiny_models: Path, sample: Callable[..., Sample], sampling: Sampling) -> None:
    shared = {"resize": "stretch", "pixel_height": 96, "pixel_width": 160, "kind": "condition", "fps": 8.0, "has_logvar": False}
    for name, pixel_frames, latent_frames in (("tiny-wan", 9, 3), ("tiny-hunyuan", 1, 1)):
        spec = VaeCondition(backbone=name, sampling=sampling)
        ((cell,),) = spec.open("cpu").encode([sample()])
        (product,) = spec.products()
        assert cell.product == product.name == f"{name}-vae-condition-{pixel_frames}x96x160"
        assert cell.shape == cell.data.shape == (16, latent_frames, 12, 20)
        assert cell.columns == {**shared, "pixel_frames": pixel_frames, "latent_frames": latent_frames, "temporal_stride": 4, "first_alone": True}
        assert (product.settings["kind"], product.settings["scaling"]) == ("condition", "raw")


def test_only_the_first_frame_counts(tiny_models: Path, sample: Callable[..., Sample], sampling: Sampling) -> None:
    opened = VaeCondition(backbone="tiny-wan", sampling=sampling).open("cpu")
    one = sample()
    later = one.frames.copy()
    later[1:] = 0
    first, same = (opened.encode([each])[0][0].data for each in (one, dataclasses.replace(one, frames=later)))
    np.testing.assert_array_equal(first, same)


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(tiny_models: Path, sample: Callable[..., Sample], sampling: Sampling) -> None:
    opened = VaeCondition(backbone="tiny-wan", sampling=sampling).open("cpu")
    eight = [sample(number) for number in range(8)]
    for one, cells in zip(eight, opened.encode(eight), strict=True):
        np.testing.assert_array_equal(cells[0].data, opened.encode([one])[0][0].data)


@pytest.mark.parametrize("name", TEXT_TO_VIDEO)
def test_a_text_to_video_backbone_is_given_no_image(name: str, sampling: Sampling) -> None:
    with pytest.raises(CallError, match="takes no image. Leave the step out, or use one of tiny-wan, tiny-hunyuan, wan2.1-i2v"):
        VaeCondition(backbone=name, sampling=sampling)


def test_cogvideox_is_sent_to_the_step_that_has_its_condition(sampling: Sampling) -> None:
    with pytest.raises(CallError, match="which vae_first stores"):
        VaeCondition(backbone="cogvideox-5b-i2v", sampling=sampling)
