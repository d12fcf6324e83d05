"""From noise to frames: equal to diffusers' own pipeline, guidance as it is defined, noise that a batch does not change."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.video_processor import VideoProcessor
from torch import Tensor, nn

from train.backbones import load_backbone
from train.batch import Batch, Side
from train.decode_latents import Decoder, to_uint8, unscaled
from train.denoise import Guidance, Stepper, denoise, initial, scheduler_from, step_generator
from train.method import Backbone, unwrapped
from train.objective import Flow, VPrediction, normal, objective_from
from train.vap import Vap
from vapdata import backbones, tiny
from vapdata.errors import CallError

CPU = torch.device("cpu")
ROWS = backbones.backbone("tiny-cogvideox").text.rows
COGVIDEOX = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
}
FLOWS = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


# Schedulers


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddim_with_the_true_velocity_ends_at_the_clean_latents(steps: int) -> None:
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX)
    objective = objective_from({"_class_name": "CogVideoXDDIMScheduler", **COGVIDEOX})
    assert isinstance(objective, VPrediction)
    assert _ends_at_clean(Stepper(scheduler, steps, CPU, [1, 2]), _velocity(objective)) < 1e-4


@pytest.mark.parametrize("name", FLOWS)
def test_flow_matching_with_the_true_velocity_ends_at_the_clean_latents(name: str) -> None:
    assert _ends_at_clean(Stepper(FLOWS[name], 10, CPU, [1, 2]), lambda clean, noise, timestep: noise - clean) < 1e-4


def test_a_straight_flow_stands_where_the_objective_says_at_every_step() -> None:
    stepper, (clean, noise) = Stepper(FLOWS["euler"], 7, CPU, [1, 2]), _clean_and_noise()
    latents = noise
    for timestep in stepper.timesteps:
        times = timestep.expand(2)
        torch.testing.assert_close(latents, Flow().noisy(clean, noise, times), rtol=0, atol=1e-5)
        latents = stepper.step(noise - clean, latents)


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 50, 1000])
def test_no_timestep_is_below_zero_and_there_are_as_many_as_asked_for(steps: int) -> None:
    timesteps = Stepper(CogVideoXDDIMScheduler(**COGVIDEOX), steps, CPU, [0]).timesteps
    assert len(timesteps) == steps and timesteps[0] == 999 and timesteps.min() >= 0


def test_the_dpm_solver_draws_each_sample_s_noise_from_its_own_seed() -> None:
    scheduler = CogVideoXDPMScheduler(**COGVIDEOX)
    clean, noise = _clean_and_noise()

    def run(seeds: list[int], rows: slice) -> Tensor:
        stepper, latents = Stepper(scheduler, 4, CPU, seeds), noise[rows]
        for _ in stepper.timesteps:
            latents = stepper.step(clean[rows], latents)
        return latents

    both = run([11, 12], slice(0, 2))
    assert torch.equal(both[1:], run([12], slice(1, 2)))
    assert not torch.equal(both[1:], run([13], slice(1, 2)))


def test_a_scheduler_is_made_by_its_config_s_class_name_and_others_are_refused() -> None:
    assert isinstance(scheduler_from({"_class_name": "CogVideoXDPMScheduler", **COGVIDEOX}), CogVideoXDPMScheduler)
    with pytest.raises(CallError, match=r"scheduler 'PNDMScheduler' .* wanted one of CogVideoXDDIMScheduler"):
        scheduler_from({"_class_name": "PNDMScheduler"})


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_the_scheduler_knows_are_refused_in_one_sentence(steps: int) -> None:
    with pytest.raises(CallError, match=rf"--steps {steps}: .* takes 1 to 1000. Type --steps 50"):
        Stepper(CogVideoXDDIMScheduler(**COGVIDEOX), steps, CPU, [0])


def _clean_and_noise() -> tuple[Tensor, Tensor]:
    return normal(1, (2, 16, 3, 4, 6)), normal(2, (2, 16, 3, 4, 6))


def _velocity(objective: VPrediction) -> Any:
    """a eps - s x0 at a timestep."""

    def at(clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        abar = objective.alphas_cumprod[int(timestep)].float()
        return abar.sqrt() * noise - (1 - abar).sqrt() * clean

    return at


def _ends_at_clean(stepper: Stepper, velocity: Any) -> float:
    clean, noise = _clean_and_noise()
    latents = noise
    for timestep in stepper.timesteps:
        latents = stepper.step(velocity(clean, noise, timestep), latents)
    return float((latents - clean).abs().max())


# Initial noise and decoding


def test_a_sample_s_noise_follows_from_its_seed_alone() -> None:
    like = torch.zeros(3, 16, 3, 4, 6)
    assert torch.equal(initial([5, 6, 7], like)[1:2], initial([6], like[:1]))
    assert torch.equal(initial([6], like[:1])[0], normal(6, (16, 3, 4, 6)))


@pytest.mark.parametrize("name", ["tiny-cogvideox", "cogvideox-5b-i2v", "tiny-wan", "tiny-hunyuan"])
def test_scaling_is_undone(name: str) -> None:
    vae = backbones.backbone(name).vae
    raw = normal(3, (2, 16, 3, 4, 6))
    mean = torch.tensor(vae.mean or (0.0,) * 16).view(1, 16, 1, 1, 1)
    std = torch.tensor(vae.std or (1.0,) * 16).view(1, 16, 1, 1, 1)
    torch.testing.assert_close(unscaled((raw - mean) / std * vae.scaling_factor, vae), raw, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("frames", "latents"), [(9, 3), (8, 2), (16, 4), (1, 1)])
@pytest.mark.slow
def test_decoding_equals_diffusers_and_gives_back_the_number_of_frames(frames: int, latents: int) -> None:
    facts = backbones.backbone("tiny-cogvideox")
    video = normal(4, (2, 16, latents, 4, 6))
    made = Decoder(facts, CPU).frames(video)
    vae = AutoencoderKLCogVideoX.from_pretrained(tiny.folder("tiny-cogvideox") / "vae")
    for one, got in zip(video.split(1), made, strict=True):
        with torch.no_grad():
            pixels = vae.decode(1 / vae.config.scaling_factor * one).sample
        wanted = VideoProcessor(vae_scale_factor=8).postprocess_video(pixels, output_type="pil")[0]
        assert got.shape == (frames, 32, 48, 3)
        assert all(np.array_equal(frame, np.asarray(picture)) for frame, picture in zip(got, wanted, strict=True))


def test_levels_are_clamped_and_rounded() -> None:
    pixels = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    assert to_uint8(pixels)[0, 0, 0, :, 1].tolist() == [0, 0, 128, 255, 255, 255]


# The loop against diffusers' pipeline


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(backbones.backbone("tiny-cogvideox"), dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX.from_pretrained(tiny.folder("tiny-cogvideox") / "vae").eval()


class GivenImage(CogVideoXImageToVideoPipeline):
    """diffusers' pipeline with the image's latents handed in, so that encoding draws nothing from the step's generators."""

    def prepare_latents(self, image: Any, *given: Any) -> tuple[Tensor, Tensor]:
        shape = given[-1].shape
        padded = torch.zeros(shape[0], shape[1], 16, *shape[3:])
        padded[:, :1] = self.given_first.transpose(1, 2)
        return given[-1], padded


@pytest.mark.parametrize("frames", [9, 16])
@pytest.mark.parametrize(("guidance", "dynamic"), [(1.0, False), (6.0, False), (6.0, True)])
@pytest.mark.parametrize("scheduler", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
@pytest.mark.slow
def test_without_a_method_the_loop_equals_diffusers_pipeline(
    backbone: Backbone, vae: AutoencoderKLCogVideoX, scheduler: type, guidance: float, dynamic: bool, frames: int
) -> None:
    latent_frames = {9: 3, 16: 4}[frames]
    target, seeds = _side(2, latent_frames), (21, 22)
    negative = normal(31, (2, ROWS, 64))
    given = {"_class_name": scheduler.__name__, **COGVIDEOX}
    pipeline = GivenImage(tokenizer=None, text_encoder=None, vae=vae, transformer=backbone.transformer, scheduler=scheduler_from(given))
    pipeline.given_first = target.first
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        torch.zeros(2, 3, 32, 48),
        height=32,
        width=48,
        num_frames=frames,
        num_inference_steps=4,
        guidance_scale=guidance,
        use_dynamic_cfg=dynamic,
        latents=initial(seeds, target.video).transpose(1, 2),
        generator=[step_generator(seed) for seed in seeds],
        prompt_embeds=target.text,
        negative_prompt_embeds=negative,
        output_type="latent",
    ).frames.transpose(1, 2)
    got = denoise(None, backbone, target, (), steps=4, guidance=guidance, dynamic=dynamic, seeds=seeds, negative={"text": negative}, scheduler=scheduler_from(given))
    assert float((got - wanted).abs().max()) == 0.0
    assert float(got.abs().max()) > 0.1 and got.dtype == torch.float32


def test_the_pipeline_as_it_stands_given_the_same_image_makes_the_same_frames(backbone: Backbone, vae: AutoencoderKLCogVideoX) -> None:
    pipeline = CogVideoXImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=backbone.transformer, scheduler=scheduler_from(backbone.scheduler_config))
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        first = vae.encode(image[:, :, None] * 2 - 1).latent_dist.sample(torch.Generator().manual_seed(6)) * vae.config.scaling_factor
    target, negative = replace(_side(1, 3), first=first), normal(31, (1, ROWS, 64))
    pictures = pipeline(
        image,
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=6.0,
        latents=initial([21], target.video).transpose(1, 2),
        generator=torch.Generator().manual_seed(6),
        prompt_embeds=target.text,
        negative_prompt_embeds=negative,
    ).frames[0]
    scheduler = scheduler_from(backbone.scheduler_config)
    latents = denoise(None, backbone, target, (), steps=4, guidance=6.0, seeds=[21], negative={"text": negative}, scheduler=scheduler)
    frames = Decoder(backbone.facts, CPU).frames(latents)[0]
    wanted = np.stack([np.asarray(each) for each in pictures])
    assert np.array_equal(frames, wanted)


# Guidance, on a method whose prediction is known


class Told(nn.Module):
    """A method that predicts the same number everywhere: 1 for the target's caption, 10 for the references', 100 for what they show."""

    def forward(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def predict(self, noisy: Tensor, timesteps: Tensor, target: Side, references: tuple[Side, ...]) -> Tensor:
        told = _mean(target.text) + 1000 * _mean(target.first)
        for side in references:
            told = told + 10 * _mean(side.text) + 100 * _mean(side.video)
        return told.view(-1, 1, 1, 1, 1).expand_as(noisy)


def test_the_negative_prompt_stands_for_both_captions_and_the_references_stay(backbone: Backbone) -> None:
    target, reference = _told(caption=1.0, shows=5.0), _told(caption=2.0, shows=3.0)
    negative = torch.full_like(target.text, -1.0)
    stays = 1000 * 5.0 + 100 * 3.0  # the target's first frame, and what the reference shows
    conditional, unconditional = stays + 1.0 + 20.0, stays - 1.0 - 10.0
    found = _one_step(backbone, target, reference, negative, guidance=6.0)
    assert found == pytest.approx(unconditional + 6.0 * (conditional - unconditional), rel=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 0.0])
def test_guidance_of_one_or_less_is_the_prediction_with_the_caption_as_in_diffusers(backbone: Backbone, guidance: float) -> None:
    target, reference = _told(caption=1.0, shows=0.0), _told(caption=2.0, shows=3.0)
    assert _one_step(backbone, target, reference, None, guidance=guidance) == pytest.approx(1.0 + 20.0 + 300.0, rel=1e-5)


def test_reference_guidance_adds_a_branch_without_references(backbone: Backbone) -> None:
    target, reference = _told(caption=1.0, shows=0.0), _told(caption=2.0, shows=3.0)
    negative = torch.full_like(target.text, -1.0)
    with_reference, without, conditional = -1.0 - 10.0 + 300.0, -1.0, 1.0 + 20.0 + 300.0
    wanted = without + 2.0 * (with_reference - without) + 6.0 * (conditional - with_reference)
    assert _one_step(backbone, target, reference, negative, guidance=6.0, reference_guidance=2.0) == pytest.approx(wanted, rel=1e-5)
    ordinary = _one_step(backbone, target, reference, negative, guidance=6.0)
    assert _one_step(backbone, target, reference, negative, guidance=6.0, reference_guidance=1.0) == ordinary


def test_dynamic_guidance_is_diffusers_formula_at_a_few_timesteps() -> None:
    guidance = Guidance(scale=6.0, dynamic=True)
    assert guidance.at(0.0, 50) == pytest.approx(1 + 6 * (1 - math.cos(math.pi)) / 2)
    assert guidance.at(50.0, 50) == pytest.approx(1.0)
    assert guidance.at(999.0, 50) == 1 + 6 * ((1 - math.cos(math.pi * ((50 - 999) / 50) ** 5.0)) / 2)
    assert Guidance(scale=6.0).at(999.0, 50) == 6.0


def test_what_guidance_lacks_is_said_in_one_sentence(backbone: Backbone) -> None:
    side = _told(caption=1.0, shows=1.0)
    given: dict[str, Any] = {"steps": 2, "scheduler": FLOWS["euler"]}
    with pytest.raises(CallError, match="--guidance 6: guidance needs the negative prompt's embedding"):
        denoise(Told(), backbone, side, (side,), guidance=6.0, seeds=[1], negative=None, **given)
    with pytest.raises(CallError, match="--reference-guidance 2: this method was given no reference"):
        denoise(Told(), backbone, side, (), guidance=6.0, seeds=[1], negative={"text": side.text}, reference_guidance=2.0, **given)
    with pytest.raises(CallError, match="got 2 seeds for 1 samples"):
        denoise(Told(), backbone, side, (side,), guidance=1.0, seeds=[1, 2], negative=None, **given)


def _mean(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.flatten(1).mean(dim=1)


def _told(*, caption: float, shows: float) -> Side:
    side = _side(1, 3)
    assert side.text is not None and side.first is not None
    return replace(side, text=torch.full_like(side.text, caption), video=torch.full_like(side.video, shows), first=torch.full_like(side.first, shows))


def _one_step(backbone: Backbone, target: Side, reference: Side, negative: Tensor | None, *, guidance: float, reference_guidance: float | None = None) -> float:
    """The guided prediction: with one step of a flow, noise - result."""
    found = denoise(
        Told(),
        backbone,
        target,
        (reference,),
        steps=1,
        guidance=guidance,
        seeds=[7],
        negative=None if negative is None else {"text": negative, "text_mask": target.text_mask},
        scheduler=FlowMatchEulerDiscreteScheduler(),
        reference_guidance=reference_guidance,
    )
    return float((initial([7], target.video) - found).mean())


# Video-As-Prompt on the tiny backbone


@pytest.fixture(scope="module")
def vap(backbone: Backbone) -> nn.Module:
    return Vap().attach(backbone, unwrapped).eval()


def _sampled(module: nn.Module | None, backbone: Backbone, target: Side, references: tuple[Side, ...], seeds: list[int], *, guidance: float = 6.0, steps: int = 3) -> Tensor:
    assert target.text is not None
    negative = normal(41, target.text.shape[1:]).expand_as(target.text)
    scheduler = scheduler_from(backbone.scheduler_config)
    return denoise(module, backbone, target, references, steps=steps, guidance=guidance, seeds=seeds, negative={"text": negative}, scheduler=scheduler)


def test_a_step_of_vap_is_put_together_from_its_two_predictions(backbone: Backbone, vap: nn.Module) -> None:
    target, reference = _side(1, 3), _side(1, 3, seed=10)
    assert target.text is not None
    negative = normal(41, target.text.shape[1:]).expand_as(target.text)
    noise, times = initial([5], target.video), torch.tensor([999.0])
    with torch.no_grad():
        positive = vap.predict(noise, times, target, (reference,))
        other = vap.predict(noise, times, replace(target, text=negative), (replace(reference, text=negative),))
    clean = -(other + 6.0 * (positive - other))  # at t = 999 nothing but noise is left, and v = -x0
    torch.testing.assert_close(_sampled(vap, backbone, target, (reference,), [5], steps=1), clean, rtol=1e-4, atol=1e-4)


def test_another_reference_makes_another_video_under_guidance_and_none_is_the_backbone_s(backbone: Backbone, vap: nn.Module) -> None:
    target = _side(1, 3)
    first, second = (_sampled(vap, backbone, target, (_side(1, 3, seed=seed),), [5]) for seed in (10, 20))
    assert float((first - second).abs().mean()) > 1e-3
    assert torch.equal(_sampled(vap, backbone, target, (), [5]), _sampled(None, backbone, target, (), [5]))


def test_a_sample_is_the_same_alone_and_in_a_batch(backbone: Backbone, vap: nn.Module) -> None:
    target, reference = _side(2, 3), _side(2, 3, seed=10)
    both = _sampled(vap, backbone, target, (reference,), [5, 6])
    alone = _sampled(vap, backbone, _row(target, 1), (_row(reference, 1),), [6])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)
    assert torch.equal(_sampled(vap, backbone, _row(target, 1), (_row(reference, 1),), [6]), alone)


def test_training_goes_on_after_sampling(backbone: Backbone) -> None:
    module, target, reference = Vap().attach(backbone, unwrapped), _side(1, 3), _side(1, 3, seed=10)
    latents = _sampled(module, backbone, target, (reference,), [5])
    assert not latents.is_inference()
    batch = Batch(step=0, target=target, references=(reference,), weights=torch.ones(1), seeds=(1,), timesteps=torch.tensor([500.0]), noise=normal(1, target.video.shape))
    module(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)


def _row(side: Side, place: int) -> Side:
    """One clip of a side."""
    rows = {each.name: value[place : place + 1] for each in fields(side) if isinstance(value := getattr(side, each.name), Tensor)}
    return replace(side, clip_ids=side.clip_ids[place : place + 1], **rows)


def _side(batch: int, latent_frames: int, seed: int = 0) -> Side:
    """A side of random numbers on a small grid."""
    return Side(
        clip_ids=tuple(f"clip{seed}/{number}" for number in range(batch)),
        video=normal(seed + 1, (batch, 16, latent_frames, 4, 6)),
        text=normal(seed + 2, (batch, ROWS, 64)),
        text_mask=torch.ones(batch, ROWS, dtype=torch.bool),
        first=normal(seed + 3, (batch, 16, 1, 4, 6)),
    )
