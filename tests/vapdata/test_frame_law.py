"""Frame laws: by hand, and against the real VAE classes for every count from 1 to 81."""

import diffusers
import pytest
import torch

from vapdata import tiny, tiny_vae
from vapdata.errors import CallError
from vapdata.frame_law import COGVIDEOX_LAW, HUNYUAN_LAW, WAN_LAW, FrameLaw

LAWS = {"AutoencoderKLCogVideoX": COGVIDEOX_LAW, "AutoencoderKLWan": WAN_LAW, "AutoencoderKLHunyuanVideo": HUNYUAN_LAW}
CONFIGS = {"AutoencoderKLCogVideoX": tiny.VAE, **dict(tiny_vae.CONFIGS.values())}
TRIED = (*range(1, 42), 48, 49, 80, 81)
"""Counts of frames: every one of five turns of the laws' period of eight, then those that the released models are trained on."""


@pytest.mark.slow
@pytest.mark.parametrize(("model_class", "law"), LAWS.items(), ids=LAWS)
def test_legal_counts_are_those_that_come_back_from_a_round_trip(model_class: str, law: FrameLaw) -> None:
    model = getattr(diffusers, model_class)(**CONFIGS[model_class]).eval()
    returned, latent = {}, {}
    with torch.inference_mode():
        for count in TRIED:
            encoded = model.encode(torch.zeros(1, 3, count, 16, 16)).latent_dist.mean
            latent[count], returned[count] = encoded.shape[2], model.decode(encoded).sample.shape[2]
    legal = [count for count in TRIED if law.legal(count)]
    assert [law.latent_frames(count) for count in legal] == [latent[count] for count in legal]
    assert legal == [count for count, back in returned.items() if back == count]


@pytest.mark.parametrize(("pixels", "latents"), [(1, 1), (8, 2), (9, 3), (16, 4), (17, 5), (24, 6), (25, 7), (48, 12), (49, 13), (81, 21)])
def test_cogvideox_takes_1_and_8k_and_8k_plus_1(pixels: int, latents: int) -> None:
    assert COGVIDEOX_LAW.latent_frames(pixels) == latents


@pytest.mark.parametrize("pixels", [-1, 0, 2, 3, 4, 5, 7, 12, 13, 20, 50])
def test_cogvideox_refuses_counts_that_do_not_come_back(pixels: int) -> None:
    assert not COGVIDEOX_LAW.legal(pixels)
    with pytest.raises(CallError, match="do not fit the CogVideoX VAE"):
        COGVIDEOX_LAW.latent_frames(pixels)


def test_the_refusal_names_both_legal_neighbours() -> None:
    with pytest.raises(CallError, match=r"1, 8k\+1 or 8k\. Use 9 or 16 frames"):
        COGVIDEOX_LAW.check(12)
    assert COGVIDEOX_LAW.neighbours(0) == (1,)
    assert COGVIDEOX_LAW.neighbours(2) == (1, 8)


@pytest.mark.parametrize("pixels", range(1, 60))
def test_neighbours_are_legal_and_enclose_the_count(pixels: int) -> None:
    for law in LAWS.values():
        near = law.neighbours(pixels)
        assert all(law.legal(count) for count in near)
        assert near[-1] > pixels
        assert len(near) == 1 or near[0] < pixels


def test_wan_and_hunyuan_take_4k_plus_1_alone() -> None:
    for law in (WAN_LAW, HUNYUAN_LAW):
        assert [count for count in range(1, 18) if law.legal(count)] == [1, 5, 9, 13, 17]
    assert WAN_LAW.latent_frames(81) == 21


def test_the_first_frame_stands_alone_only_in_8k_plus_1() -> None:
    assert COGVIDEOX_LAW.first_alone(49)
    assert COGVIDEOX_LAW.first_alone(1)
    assert not COGVIDEOX_LAW.first_alone(16)


@pytest.mark.parametrize("latents", range(1, 30))
def test_the_least_frames_that_make_so_many_latent_ones(latents: int) -> None:
    for law in LAWS.values():
        made = [count for count in range(1, 200) if law.legal(count) and law.latent_frames(count) == latents]
        assert law.least_pixel_frames(latents) == made[0]
