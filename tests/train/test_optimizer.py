import math

import pytest
import torch
from torch import nn

from train.optimizer import Optimizer, average, averages, set_rate, trained
from vapdata.errors import CallError


def test_the_rate_rises_linearly_and_then_stays() -> None:
    optimizer = Optimizer(lr=1.0, warmup=4)
    assert [optimizer.rate(step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_peak_to_nothing_and_is_at_half_in_the_middle() -> None:
    optimizer = Optimizer(lr=2.0, warmup=10, schedule="cosine")
    assert optimizer.rate(10, 110) == 2.0
    assert optimizer.rate(60, 110) == pytest.approx(1.0)
    assert optimizer.rate(109, 110) == pytest.approx(1 + math.cos(math.pi * 0.99))


def test_cosine_with_restarts_begins_again_at_the_peak_of_each_cycle() -> None:
    optimizer = Optimizer(lr=1.0, warmup=0, schedule="cosine_restarts", cycles=4)
    assert [optimizer.rate(step, 100) for step in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert optimizer.rate(24, 100) == pytest.approx((1 + math.cos(math.pi * 0.96)) / 2)


def test_the_schedules_agree_with_diffusers_own() -> None:
    from diffusers.optimization import get_scheduler

    for ours, theirs, cycles in (("constant", "constant_with_warmup", 1), ("cosine", "cosine", 1), ("cosine_restarts", "cosine_with_restarts", 3)):
        spec = Optimizer(lr=0.5, warmup=7, schedule=ours, cycles=cycles)
        parameter = nn.Parameter(torch.zeros(1))
        reference = torch.optim.SGD([parameter], lr=0.5)
        options = {"num_training_steps": 40} | ({"num_cycles": 3} if cycles == 3 else {})
        schedule = get_scheduler(theirs, reference, num_warmup_steps=7, **options)
        for step in range(7, 40):
            while schedule.last_epoch < step:
                reference.step()
                schedule.step()
            assert spec.rate(step, 40) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12), (ours, step)


def test_a_moving_average_is_the_hand_computed_one_and_leaves_frozen_weights_out() -> None:
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = averages(module)
    with torch.no_grad():
        module.weight.fill_(3.0)
    average(ema, module, 0.75)
    assert list(ema) == ["weight"] == list(trained(module))
    assert ema["weight"].item() == 1.5


def test_adamw_gets_every_setting() -> None:
    spec = Optimizer(lr=0.1, beta1=0.8, beta2=0.7, weight_decay=0.3, eps=1e-3)
    made = spec.build([nn.Parameter(torch.zeros(2))])
    set_rate(made, 0.05)
    group = made.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (0.05, (0.8, 0.7), 0.3, 1e-3)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"beta2": 1.0}, {"warmup": -1}, {"ema": -0.1}, {"cycles": 0}])
def test_a_setting_that_cannot_be_is_refused_with_what_to_type(wrong: dict[str, float]) -> None:
    with pytest.raises(CallError, match=r"Type e\.g\. --set optimizer\."):
        Optimizer(**wrong)
