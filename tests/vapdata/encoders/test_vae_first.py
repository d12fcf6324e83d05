"""VaeFirst: one latent frame from the first frame, or from the first two."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from vapdata.clip import Sample, Sampling
from vapdata.encoders.vae_first import VaeFirst, image_noise
from vapdata.errors import CallError
from vapdata.step import Product


@pytest.mark.parametrize(("first", "stride", "alone"), [(1, 4, True), (2, 2, False)])
def test_the_latent_is_the_librarys_for_those_frames_alone(
    tiny_models: Path, sampling: Sampling, sample: Callable[..., Sample], first: int, stride: int, alone: bool
) -> None:
    spec = VaeFirst(backbone="tiny-cogvideox", sampling=sampling, first=first)
    ((cell,),) = spec.open("cpu").encode([sample()])
    model = AutoencoderKLCogVideoX.from_pretrained(tiny_models / "vae").eval()
    pixels = torch.from_numpy(sample().frames[:first]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = model.encode(pixels).latent_dist.mean[0].numpy()
    np.testing.assert_allclose(cell.data, expected, atol=1e-5)
    assert cell.product == spec.products()[0].name == f"tiny-cogvideox-vae-first{first}-96x160" + ("-8fps" if first == 2 else "")
    assert cell.shape == (16, 1, 12, 20)
    columns = cell.columns
    assert (columns["kind"], columns["pixel_frames"], columns["latent_frames"]) == ("first", first, 1)
    assert (columns["temporal_stride"], columns["first_alone"]) == (stride, alone)


def test_one_frame_is_enough_for_one(tiny_models: Path, sampling: Sampling, sample: Callable[..., Sample]) -> None:
    opened = VaeFirst(backbone="tiny-cogvideox", sampling=sampling).open("cpu")
    short = Sample(clip_id="a", frames=sample().frames[:1])
    np.testing.assert_array_equal(opened.encode([short])[0][0].data, opened.encode([sample()])[0][0].data)


def test_what_it_reads_follows_from_how_many_frames(sampling: Sampling) -> None:
    assert VaeFirst(backbone="tiny", sampling=sampling).reads == {"first"}
    assert VaeFirst(backbone="tiny", sampling=sampling, first=2).reads == {"frames"}


def test_the_first_frames_latent_does_not_depend_on_how_many_are_sampled(tiny_models: Path) -> None:
    products = [
        VaeFirst(backbone="tiny", sampling=Sampling(frames=frames, height=96, width=160, fps=fps)).products()[0]
        for frames, fps in ((9, 8), (17, 16))
    ]
    assert products[0] == products[1]


def test_two_frames_need_two_frames() -> None:
    with pytest.raises(CallError, match="Use 1"):
        VaeFirst(backbone="tiny", sampling=Sampling(frames=1, height=96, width=160, fps=8), first=2)


def test_what_decides_a_second_frame_is_in_the_name_or_the_settings(sampling: Sampling) -> None:
    def product(**changes: object) -> Product:
        return VaeFirst(backbone="tiny-cogvideox", sampling=dataclasses.replace(sampling, **changes), first=2).products()[0]

    assert product(fps=2).name != product().name
    assert product(short="slow").settings != product(short="slow", frames=17).settings
    assert product(frames=17).settings == product().settings


def test_noised_latents_lie_beside_the_clean_one_and_follow_from_the_clip(
    tiny_models: Path, sampling: Sampling, sample: Callable[..., Sample]
) -> None:
    spec = VaeFirst(backbone="tiny-cogvideox", sampling=sampling, noised=3)
    clean, noised = spec.open("cpu").encode([sample()])[0]
    plain = VaeFirst(backbone="tiny-cogvideox", sampling=sampling)
    assert spec.products()[0] == plain.products()[0]
    np.testing.assert_array_equal(clean.data, plain.open("cpu").encode([sample()])[0][0].data)
    assert noised.product == spec.products()[1].name == "tiny-cogvideox-vae-first1-96x160-noised3"
    assert noised.shape == noised.data.shape == (3, 16, 1, 12, 20)
    assert (noised.columns["kind"], noised.columns["latent_frames"], noised.columns["pixel_frames"]) == ("noised", 1, 1)
    away = np.abs(noised.data - clean.data).mean(axis=(1, 2, 3, 4))
    assert (away > 1e-3).all() and len(set(away.tolist())) == 3
    again, other = (spec.open("cpu").encode([dataclasses.replace(sample(), clip_id=clip)])[0][1].data for clip in (noised.clip_id, "another"))
    np.testing.assert_array_equal(again, noised.data)
    assert not np.array_equal(other, noised.data)


def test_noised_latents_are_the_librarys_for_a_noised_picture(tiny_models: Path, sampling: Sampling, sample: Callable[..., Sample]) -> None:
    cell = VaeFirst(backbone="tiny-cogvideox", sampling=sampling, noised=2).open("cpu").encode([sample()])[0][1]
    model = AutoencoderKLCogVideoX.from_pretrained(tiny_models / "vae").eval()
    pixels = torch.from_numpy(sample().frames[:1]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    noise = torch.from_numpy(image_noise(cell.clip_id, 1, (1, 3, 1, 96, 160)))
    with torch.no_grad():
        expected = model.encode(pixels + noise).latent_dist.mean[0].numpy()
    np.testing.assert_allclose(cell.data[1], expected, rtol=1e-5, atol=1e-5)


def test_the_noises_deviation_is_log_normal_about_a_twentieth() -> None:
    logs = np.log([image_noise(f"clip/{number}", 0, (4000,)).std() for number in range(1000)])
    assert abs(logs.mean() + 3) < 0.08
    assert abs(logs.std() - 0.5) < 0.06


@pytest.mark.parametrize("wrong", [{"noised": -1}, {"noised": 2, "first": 2}, {"noised": 2, "backbone": "tiny-wan"}])
def test_noise_is_for_cogvideoxs_single_first_frame(wrong: dict[str, object], sampling: Sampling) -> None:
    with pytest.raises(CallError, match="vae_first.noised = .* Use 0"):
        VaeFirst(**({"backbone": "tiny-cogvideox", "sampling": sampling} | wrong))
