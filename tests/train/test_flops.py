"""The count of floating-point operations against torch's own counter, and against the formula by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from train.backbones import load_backbone
from train.batch import Batch, Side
from train.blocks import Blocks
from train.flops import mfu, named_peak, per_sample
from train.full import Full
from train.method import Backbone, run_block, unwrapped
from vapdata.backbones import BACKBONES

CPU = torch.device("cpu")
TOKENS, ROWS, WIDTH = 180, 226, 128


@pytest.fixture
def backbone() -> Backbone:
    """The tiny one."""
    return load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.float32, device=CPU)


def batch(size: int = 2) -> Batch:
    """9 frames of 96 x 160."""
    video = torch.zeros(size, 16, 3, 12, 20)
    side = Side(clip_ids=("a/0",) * size, video=video, text=torch.zeros(size, ROWS, 64), first=video[:, :, :1])
    return Batch(step=0, target=side, weights=torch.ones(size), seeds=(1,) * size, timesteps=torch.full((size,), 3.0), noise=video)


class Part(nn.Module):
    """Trains some of the backbone's blocks in place; the rest is frozen."""

    def __init__(self, backbone: Backbone, trained: tuple[int, ...]) -> None:
        super().__init__()
        self._backbone = (backbone,)
        backbone.transformer.requires_grad_(False)
        self.blocks = nn.ModuleList(backbone.blocks[number] for number in trained).requires_grad_(True)

    def forward(self, batch: Batch) -> Tensor:
        """The loss per sample."""
        backbone = self._backbone[0]
        stream = backbone.embed(batch.target.video, batch.timesteps, batch.target)
        for block in backbone.blocks:
            stream = run_block(backbone, block, stream)
        return backbone.objective.losses(backbone.head(stream), batch.target.video, batch.noise, batch.timesteps)


def torch_count(module: nn.Module, given: Batch) -> tuple[int, int]:
    """Forward and whole count by torch's counter, attention as plain matrix products."""
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            losses = module(given)
        with FlopCounterMode(display=False) as backward:
            losses.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


@pytest.mark.slow
def test_a_fully_trained_backbone_is_counted_as_torch_counts_it(backbone: Backbone) -> None:
    module = Full().attach(backbone, unwrapped)
    count, (forward, whole) = per_sample(module, backbone, batch()), torch_count(module, batch())
    assert (count.forward * 2, count.flops * 2, count.tokens) == (forward, whole, TOKENS)
    assert 2.98 < count.flops / count.forward <= 3


@pytest.mark.parametrize("trained", [(0,), (1, 2), (3,)])
@pytest.mark.slow
def test_a_partly_frozen_backbone_is_counted_as_torch_counts_it(backbone: Backbone, trained: tuple[int, ...]) -> None:
    module = Part(backbone, trained)
    count, (forward, whole) = per_sample(module, backbone, batch()), torch_count(module, batch())
    assert (count.forward * 2, count.flops * 2) == (forward, whole)


@pytest.mark.slow
def test_frozen_blocks_before_the_first_trained_one_cost_their_forward_alone(backbone: Backbone) -> None:
    # Trained at 0, blocks 1 to 3 pass a gradient on; trained at 3, blocks 0 to 2 pass none. Modulation is the same in
    # both: it is computed from the time vector, which needs no gradient.
    first, last = (per_sample(Part(backbone, (number,)), backbone, batch()) for number in (0, 3))
    sequence = TOKENS + ROWS
    linear, attention = 2 * sequence * 12 * WIDTH**2, 4 * sequence**2 * WIDTH
    assert first.flops - last.flops == 3 * (linear + 2 * attention)


@pytest.mark.slow
def test_the_forward_is_the_formula_by_hand(backbone: Backbone) -> None:
    count = per_sample(Part(backbone, (0,)), backbone, batch(size=1))
    sequence = TOKENS + ROWS
    block = 2 * sequence * 12 * WIDTH**2 + 4 * sequence**2 * WIDTH + 2 * 2 * 128 * 6 * WIDTH
    entry = 2 * (TOKENS * 32 * 4 * WIDTH + ROWS * 64 * WIDTH + 2 * 128 * 128)
    head = 2 * (TOKENS * WIDTH * 64 + 128 * 2 * WIDTH)
    assert count.forward == 4 * block + entry + head


@pytest.mark.parametrize("keep", ["everything", "attention", "nothing"])
@pytest.mark.slow
def test_checkpointing_does_not_change_the_count(backbone: Backbone, keep: str) -> None:
    plain = per_sample(Full().attach(backbone, unwrapped), backbone, batch())
    assert per_sample(Full().attach(backbone, Blocks(keep=keep).wrap), backbone, batch()) == plain  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bf16_backbone_and_float32_modules_are_counted_together() -> None:
    frozen = load_backbone(BACKBONES["tiny-cogvideox"], dtype=torch.bfloat16, device=CPU)
    whole = per_sample(Part(frozen, (1,)), frozen, batch())
    frozen.blocks[1].float()
    assert per_sample(Part(frozen, (1,)), frozen, batch()) == whole


def test_counting_touches_neither_gradients_nor_random_state(backbone: Backbone) -> None:
    module = Full().attach(backbone, unwrapped)
    before = [parameter.clone() for parameter in module.parameters()]
    state = torch.get_rng_state()
    per_sample(module, backbone, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and torch.equal(parameter, old) for parameter, old in zip(module.parameters(), before, strict=True))


def test_references_count_as_tokens(backbone: Backbone) -> None:
    given = batch()
    assert per_sample(Part(backbone, (0,)), backbone, replace(given, references=(given.target, given.target))).tokens == 3 * TOKENS


def test_mfu_is_the_share_of_the_peak_or_nothing() -> None:
    assert mfu(5e12, CPU, torch.bfloat16) == {}
    assert mfu(5e12, CPU, torch.float32, 10.0) == {"mfu": 0.5}
    assert named_peak("NVIDIA H200") == named_peak("NVIDIA H100 80GB HBM3") == 989
    assert named_peak("NVIDIA H100 PCIe") == 756
    assert (named_peak("NVIDIA L40S"), named_peak("NVIDIA L40"), named_peak("NVIDIA L4")) == (362, 181, 121)
    assert named_peak("Radeon") == 0
