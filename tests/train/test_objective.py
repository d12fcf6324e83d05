"""Objectives against diffusers' schedulers and float64 oracles; random numbers that follow from their seed alone."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from train.method import Objective
from train.objective import Flow, VPrediction, normal, objective_from, seed_of, uniform
from vapdata import tiny_transformer
from vapdata.errors import CallError

CONFIG_5B: dict[str, Any] = {"_class_name": "CogVideoXDDIMScheduler", **tiny_transformer.SCHEDULERS["tiny-cogvideox"]}
CONFIG_2B = {**CONFIG_5B, "snr_shift_scale": 3.0}


def v_objective(config: dict[str, Any] = CONFIG_5B) -> VPrediction:
    """The objective of a CogVideoX."""
    objective = objective_from(config)
    assert isinstance(objective, VPrediction)
    return objective


def latents(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, noise and a prediction."""
    generator = torch.Generator().manual_seed(size)
    return tuple(torch.randn(size, 2, 3, 4, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))  # type: ignore[return-value]


def test_both_are_objectives() -> None:
    assert isinstance(v_objective(), Objective)
    assert isinstance(Flow(), Objective)


@pytest.mark.parametrize(("config", "first"), [(CONFIG_2B, 0.99745), (CONFIG_5B, 0.99915)])
def test_the_schedule_is_the_schedulers_own(config: dict[str, Any], first: float) -> None:
    abar = v_objective(config).alphas_cumprod
    assert len(abar) == 1000
    assert float(abar[0]) == pytest.approx(first, abs=5e-6)
    assert float(abar[999]) == 0.0
    assert bool((abar.diff() < 0).all())


@pytest.mark.parametrize("config", [CONFIG_2B, CONFIG_5B])
def test_the_error_of_v_is_the_weighted_error_of_x0_at_every_timestep(config: dict[str, Any]) -> None:
    # V8: official trainers take the second form.
    objective, abar = v_objective(config), v_objective(config).alphas_cumprod.view(-1, 1, 1, 1, 1)
    timesteps = torch.arange(1000.0)
    clean, noise, predicted = latents(1000)
    noisy = objective.noisy(clean, noise, timesteps)
    assert noisy.dtype == torch.float64
    x0 = abar.sqrt() * noisy - (1 - abar).sqrt() * predicted
    weighted = ((x0 - clean).square() / (1 - abar)).flatten(1).mean(dim=1)
    ours = objective.losses(predicted, clean, noise, timesteps)
    torch.testing.assert_close(ours, weighted, rtol=1e-10, atol=0)
    # Taking the prediction for the noisy latents and the other way round is another loss.
    swapped = abar.sqrt() * predicted - (1 - abar).sqrt() * noisy
    assert not torch.allclose(ours, ((swapped - clean).square() / (1 - abar)).flatten(1).mean(dim=1), rtol=0.01)


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    scheduler, objective = CogVideoXDDIMScheduler.from_config(CONFIG_5B), v_objective()
    timesteps = torch.tensor([0.0, 1.0, 500.0, 998.0, 999.0])
    clean, noise, _ = latents(5)
    theirs = scheduler.add_noise(clean, noise, timesteps.long())
    torch.testing.assert_close(objective.noisy(clean, noise, timesteps), theirs)
    velocity = scheduler.get_velocity(clean, noise, timesteps.long())
    assert bool((objective.losses(velocity, clean, noise, timesteps) < 1e-24).all())
    assert torch.equal(objective.noisy(clean, noise, timesteps)[-1], noise[-1])  # no signal is left at 999


def test_bf16_latents_are_noised_and_scored_in_float32() -> None:
    clean, noise, predicted = latents(2, torch.bfloat16)
    timesteps = torch.tensor([3.0, 900.0])
    for objective in (v_objective(), Flow()):
        noisy, losses = objective.noisy(clean, noise, timesteps), objective.losses(predicted, clean, noise, timesteps)
        assert noisy.dtype == losses.dtype == torch.float32
        exact = objective.losses(predicted.double(), clean.double(), noise.double(), timesteps)
        torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-6)


def test_flow_goes_from_clean_to_noise_and_its_target_is_the_way() -> None:
    clean, noise, _ = latents(3)
    timesteps = torch.tensor([0.0, 250.0, 1000.0])
    noisy = Flow().noisy(clean, noise, timesteps)
    assert torch.equal(noisy[0], clean[0]) and torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(noisy[1], 0.75 * clean[1] + 0.25 * noise[1])
    assert torch.equal(Flow().losses(noise - clean, clean, noise, timesteps), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(Flow().losses(noise - clean + 2, clean, noise, timesteps), torch.full((3,), 4.0, dtype=torch.float64))


def test_v_timesteps_are_whole_and_uniform() -> None:
    drawn = v_objective().timesteps(range(20_000))
    assert torch.equal(drawn, drawn.floor()) and drawn.min() >= 0 and drawn.max() <= 999
    counts = torch.histc(drawn, bins=10, min=0, max=1000)
    assert bool(((counts - 2000).abs() < 200).all())  # five standard deviations


@pytest.mark.slow
def test_flow_timesteps_follow_their_density_and_shift() -> None:
    seeds = range(20_000)
    even, usual = Flow(density="uniform").timesteps(seeds) / 1000, Flow().timesteps(seeds) / 1000
    assert abs(float(even.mean()) - 0.5) < 0.01 and abs(float(even.std()) - 12**-0.5) < 0.01
    logits = torch.logit(usual)
    assert abs(float(logits.mean())) < 0.03 and abs(float(logits.std()) - 1) < 0.03
    shifted = Flow(density="uniform", shift=3.0).timesteps(seeds) / 1000
    torch.testing.assert_close(shifted, 3 * even / (1 + 2 * even))
    with pytest.raises(CallError, match="shift is above 0; got 0"):
        Flow(shift=0)


def test_the_grid_is_the_mid_points_of_equal_parts() -> None:
    assert v_objective().grid(4).tolist() == [125.0, 375.0, 625.0, 875.0]
    assert v_objective().grid(3).tolist() == [166.0, 500.0, 833.0]
    assert Flow().grid(4).tolist() == [125.0, 375.0, 625.0, 875.0]


def test_the_objective_is_read_from_the_schedulers_config() -> None:
    assert isinstance(objective_from({"_class_name": "CogVideoXDPMScheduler", "prediction_type": "v_prediction", "snr_shift_scale": 1.0}), VPrediction)
    assert objective_from({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}) == Flow()
    assert objective_from({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0}) == Flow()
    with pytest.raises(CallError, match="DDPMScheduler with prediction_type 'epsilon'; wanted v_prediction"):
        objective_from({"_class_name": "DDPMScheduler", "prediction_type": "epsilon"})
    with pytest.raises(CallError, match="has no class NewScheduler"):
        objective_from({"_class_name": "NewScheduler", "prediction_type": "v_prediction"})


def test_a_samples_seed_tells_run_step_slot_and_clip_apart() -> None:
    seeds = {seed_of(seed, step, slot, clip) for seed in (0, 1) for step in (0, 1, 11) for slot in (0, 1, 11) for clip in ("a/1", "a/11")}
    assert len(seeds) == 2 * 3 * 3 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(7, 3, 2, "openvid/9f3c") == 7_338_617_688_499_381_962


@pytest.mark.slow
def test_draws_follow_from_seed_and_stream_and_nothing_else() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = normal(5, (2, 3), "noise")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(normal(5, (2, 3), "noise"), one) and one.dtype == torch.float32
    assert not torch.equal(normal(5, (2, 3)), one) and not torch.equal(normal(6, (2, 3), "noise"), one)
    large = normal(5, (100_000,))
    assert abs(float(large.mean())) < 0.02 and abs(float(large.std()) - 1) < 0.02
    code = "from train.objective import normal, uniform; print(normal(5, (2, 3), 'noise').tolist(), uniform(5, 'drop'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{one.tolist()} {uniform(5, 'drop')}"


def test_uniform_numbers_fill_0_to_1_and_are_the_same_for_ever() -> None:
    drawn = torch.tensor([uniform(seed, "drop") for seed in range(20_000)])
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert uniform(0, "drop") == 0.7259189603656626
