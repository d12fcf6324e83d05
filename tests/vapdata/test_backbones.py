"""The facts that names and sizes rely on, against the defaults of diffusers' classes."""

import inspect
import subprocess
import sys

import diffusers
import pytest

from vapdata.backbones import BACKBONES, Backbone, backbone
from vapdata.errors import CallError


def test_scaling_factors_are_those_of_the_released_configs() -> None:
    assert BACKBONES["cogvideox-2b"].vae.scaling_factor == 1.15258426
    for name in ("cogvideox-5b", "cogvideox-5b-i2v", "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v"):
        assert BACKBONES[name].vae.scaling_factor == 0.7


def test_image_latents_of_cogvideox_15_alone_are_divided_by_the_factor() -> None:
    for name, facts in BACKBONES.items():
        expected = 1 / 0.7 if name.startswith("cogvideox-1.5") else facts.vae.scaling_factor
        assert facts.vae.image_scaling_factor == expected
        assert facts.patch_frames == (2 if name.startswith("cogvideox-1.5") else 1)


def test_every_backbone_is_native_at_a_legal_size() -> None:
    for facts in BACKBONES.values():
        facts.vae.law.check(facts.frames)
        assert facts.height % facts.vae.size_multiple == 0
        assert facts.width % facts.vae.size_multiple == 0


def test_backbones_share_the_name_of_a_product_only_with_its_weights() -> None:
    for kind in ("vae", "text"):
        parts = [(getattr(facts, kind), getattr(facts, kind).repo or facts.repo) for facts in BACKBONES.values()]
        assert len({(part.product, repo) for part, repo in parts}) == len({part.product for part, _ in parts})
    assert BACKBONES["wan2.1-t2v-14b"].vae == BACKBONES["wan2.1-i2v-14b-480p"].vae


@pytest.mark.parametrize("facts", BACKBONES.values(), ids=BACKBONES)
def test_a_vaes_numbers_are_those_its_class_starts_with(facts: Backbone) -> None:
    defaults = inspect.signature(getattr(diffusers, facts.vae.model_class)).parameters
    channels = "z_dim" if facts.family == "wan" else "latent_channels"
    assert facts.vae.latent_channels == defaults[channels].default
    if facts.family == "wan":
        assert facts.vae.mean == tuple(defaults["latents_mean"].default)
        assert facts.vae.std == tuple(defaults["latents_std"].default)
    elif not facts.name.startswith(("cogvideox-5b", "cogvideox-1.5")):  # the class starts with the 2B model's factor
        assert facts.vae.scaling_factor == defaults["scaling_factor"].default


def test_scaling_is_a_factor_or_a_mean_and_a_deviation_per_channel() -> None:
    for facts in BACKBONES.values():
        assert len(facts.vae.mean) == len(facts.vae.std) in (0, facts.vae.latent_channels)
        assert (facts.vae.scaling_factor == 1.0) == bool(facts.vae.mean)
        assert facts.objective == ("v_prediction" if facts.family == "cogvideox" else "flow")
        assert (facts.condition is not None) == facts.image_to_video


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
