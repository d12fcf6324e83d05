"""Frame laws against the table measured with the real VAE class, and the facts that names rely on."""

import subprocess
import sys

import pytest

from vapdata.backbones import BACKBONES, COGVIDEOX_LAW, WAN_LAW, backbone
from vapdata.errors import CallError


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
    for law in (COGVIDEOX_LAW, WAN_LAW):
        near = law.neighbours(pixels)
        assert all(law.legal(count) for count in near)
        assert near[-1] > pixels
        assert len(near) == 1 or near[0] < pixels


def test_wan_takes_4k_plus_1_alone() -> None:
    assert [count for count in range(1, 18) if WAN_LAW.legal(count)] == [1, 5, 9, 13, 17]
    assert WAN_LAW.latent_frames(81) == 21


def test_the_first_frame_stands_alone_only_in_8k_plus_1() -> None:
    assert COGVIDEOX_LAW.first_alone(49)
    assert COGVIDEOX_LAW.first_alone(1)
    assert not COGVIDEOX_LAW.first_alone(16)


def test_scaling_factors_are_those_of_the_released_configs() -> None:
    assert BACKBONES["cogvideox-2b"].vae.scaling_factor == 1.15258426
    assert BACKBONES["cogvideox-5b-i2v"].vae.scaling_factor == 0.7


def test_every_backbone_is_native_at_a_legal_size() -> None:
    for facts in BACKBONES.values():
        facts.vae.law.check(facts.frames)
        assert facts.height % facts.vae.size_multiple == 0
        assert facts.width % facts.vae.size_multiple == 0


def test_no_two_backbones_share_the_name_of_a_product_of_their_own() -> None:
    for kind in ("vae", "text"):
        names = [getattr(facts, kind).product for facts in BACKBONES.values()]
        assert len(set(names)) == len(names)


def test_tiny_is_short_for_tiny_cogvideox() -> None:
    assert backbone("tiny") is BACKBONES["tiny-cogvideox"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CallError, match="Did you mean cogvideox-2b"):
        backbone("cogvideo-2b")


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from vapdata.clip import Sampling; from vapdata.encoders.vae import Vae; from vapdata.encoders.t5 import T5; "
        "from vapdata.encoders.clip_mask import ClipMask; from vapdata.encoders.vae_first import VaeFirst; from vapdata import weights; "
        "s = Sampling(frames=49, height=480, width=720, fps=8); b = 'cogvideox-2b'; "
        "steps = (Vae(backbone=b, sampling=s), VaeFirst(backbone=b, sampling=s), T5(backbone=b), ClipMask(backbone=b, sampling=s)); "
        "[step.products() for step in steps]; weights.missing([w for step in steps for w in step.weights()]); "
        "assert not {'torch', 'transformers', 'diffusers', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
