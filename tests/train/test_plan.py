"""Memory and rate from shapes alone: parameters as released, sums by hand, and the sentence that says what is assumed."""

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from train.backbones.architecture import CONFIGS, shadow
from train.blocks import Blocks
from train.flops import per_sample
from train.method import unwrapped
from train.parallel import Parallel
from train.plan import ALONE, GIB, command, memory, table
from train.recipes import recipe
from train.shadow import Cost, _batch, cost_of
from vapdata import backbones
from vapdata.errors import CallError

BILLIONS = {
    "cogvideox-2b": 1.694,
    "cogvideox-5b": 5.570,
    "cogvideox-5b-i2v": 5.570,
    "cogvideox-1.5-5b": 5.571,
    "cogvideox-1.5-5b-i2v": 5.572,
    "wan2.1-t2v-1.3b": 1.419,
    "wan2.1-t2v-14b": 14.288,
    "wan2.1-i2v-14b-480p": 16.395,
    "hunyuanvideo-i2v": 12.821,
}
"""Parameters of each released transformer."""
EXPERTS = {"cogvideox-5b-i2v": (5.435, 5.331), "wan2.1-i2v-14b-480p": (4.279, 3.928)}
"""Parameters of Video-As-Prompt's experts, and how many of them get a gradient."""
COST = Cost(
    size="", heads=48, frozen_count=0, frozen_blocks=10 * GIB, frozen_rest=GIB, own=4 * GIB, learned=3 * GIB, largest_own=GIB // 8, largest_frozen=GIB // 4,
    own_root=GIB // 10, activations=8 * GIB, tokens=100, flops=1e15,
)  # fmt: skip


def test_every_backbone_is_listed() -> None:
    assert CONFIGS.keys() == backbones.BACKBONES.keys() and BILLIONS.keys() == {name for name, each in backbones.BACKBONES.items() if not each.tiny}


@pytest.mark.parametrize("name", BILLIONS)
def test_a_backbone_without_contents_has_as_many_weights_as_the_released_one(name: str) -> None:
    made = shadow(backbones.backbone(name), torch.bfloat16)
    assert billions(made.transformer.parameters()) == BILLIONS[name]
    wide = {each.dtype for name, each in made.transformer.named_parameters() if "scale_shift_table" in name}
    assert wide <= {torch.float32} and {each.dtype for each in made.blocks[0].parameters() if each.dim() == 2} == {torch.bfloat16}
    if name in EXPERTS:
        expert = recipe(None, "vap", name).method.attach(made, unwrapped)
        assert (billions(expert.parameters()), billions(each for each in expert.parameters() if each.requires_grad)) == EXPERTS[name]


def billions(parameters: Iterable[torch.Tensor]) -> float:
    return round(sum(each.numel() for each in parameters) / 1e9, 3)


def test_what_each_way_holds_is_the_sum_by_hand() -> None:
    whole = memory(COST, Parallel(), 8)
    assert [each / GIB for each in (whole.frozen, whole.own, whole.gradients, whole.state, whole.gathers, whole.activations, whole.other)] == [11, 16, 12, 24, 8, 10, 2]
    assert whole.total == 83 * GIB and whole.most == "state"
    split = memory(COST, Parallel(shard=0), 8)
    assert [each / GIB for each in (split.frozen, split.own, split.gradients, split.state)] == [11, 2, 1.5, 3]
    assert split.gathers / GIB == pytest.approx(2 * 2.5 / 8 + 8 / 8 + 0.25, abs=1e-6)
    all_split = memory(COST, Parallel(shard=4, replicate_backbone=False, sequence=2), 8, average=True)
    assert [each / GIB for each in (all_split.frozen, all_split.own, all_split.state, all_split.activations)] == [1 + 2.5, 4, 9, 5]
    assert all_split.gathers / GIB == pytest.approx(2 * (2.5 / 8 + 0.25) + 1 + 0.25, abs=1e-6)
    away = memory(COST, Parallel(shard=0, offload=True), 8)
    assert (away.own, away.gradients, away.state) == (0, 0, 0) and away.host == 6.5 * GIB and away.frozen == 11 * GIB


def test_one_gpu_is_offered_the_memory_of_its_cpu_and_many_are_not_told_the_same_way_twice() -> None:
    run = recipe(None, "vap", "tiny-cogvideox")
    alone, two = (table(run, COST, gpus, 80, 0.35, 989) for gpus in (1, 2))
    names = [line[:40].strip() for line in alone[4:-3]]
    assert names == [*ALONE] and ["no" in line[90:] for line in alone[4:-3]] == [True, False, False], alone
    assert alone[-2] == "First that fits: own weights in the CPU's memory: --set parallel.shard=0 --set parallel.offload=true"
    assert "split in groups of 8" in "".join(two) and "split over all" not in "".join(two), two


def test_no_way_is_offered_that_the_method_would_refuse() -> None:
    offered = {name: "".join(table(recipe(None, name, "tiny-cogvideox"), COST, 8, 80, 0.35, 989)) for name in ("vap", "ssg")}
    assert "2 GPUs a sample" in offered["vap"] and "GPUs a sample" not in offered["ssg"]
    assert all("and in the CPU's memory" in each for each in offered.values())
    asked = replace(recipe(None, "ssg", "tiny-cogvideox"), parallel=Parallel(sequence=2))
    assert "no: parallel.sequence=2: train.ssg needs every token" in "".join(table(asked, COST, 8, 80, 0.35, 989))


@pytest.mark.parametrize(("parallel", "says"), [(Parallel(shard=3), "parallel.shard=3: 8 GPUs"), (Parallel(sequence=16), "parallel.sequence=16: 8 GPUs")])
def test_groups_that_do_not_divide_the_gpus_are_refused(parallel: Parallel, says: str) -> None:
    with pytest.raises(CallError, match=re.escape(says)):
        memory(COST, parallel, 8)


@pytest.mark.slow
def test_operations_are_those_that_training_counts_and_less_is_kept_where_less_is_wanted() -> None:
    run = replace(recipe(None, "vap", "tiny-cogvideox"), micro_batch=2)
    costs = [cost_of(replace(run, blocks=Blocks(keep=keep)), frames=9, height=32, width=32) for keep in ("everything", "attention", "nothing")]
    assert costs[0].activations > costs[1].activations > costs[2].activations > 0
    facts = backbones.backbone("tiny-cogvideox")
    made = shadow(facts, torch.float32)
    module = run.method.attach(made, unwrapped)
    made.transformer.to_empty(device="cpu")
    module.to_empty(device="cpu")
    counted = per_sample(module, made, _batch(facts, run.method.reads(facts) | made.reads(), (16, 3, 4, 4), 2))
    assert all(cost.flops == counted.flops and cost.tokens == counted.tokens == 24 for cost in costs)


def answered(*arguments: str) -> str:
    made = CliRunner().invoke(command, arguments)
    assert made.exit_code == 0, made.output
    return made.output


@pytest.mark.slow
def test_the_released_wan_run_fits_eight_gpus_split_and_not_whole_and_the_rate_is_told_to_be_assumed() -> None:
    said = answered("--backbone", "wan2.1-i2v-14b-480p", "--gpus", "8", "--frames", "49")
    assert "4.279 B own weights (3.928 B learn), 16.395 B frozen; 40,560 video tokens" in said
    (whole,) = [line for line in said.splitlines() if line.startswith("every GPU holds all")]
    assert re.search(r"no, \d+\.\d too many, most of all", whole)
    assert re.search(r"First that fits: .*--set parallel\.shard=\d", said)
    assert re.search(r"Expected: [\d.e-]+ samples/s.*\(an MFU of 0\.35 of 989 TFLOP/s is an assumption, for no GPU has been measured here", said)


@pytest.mark.slow
def test_clip_counts_though_it_is_not_here_and_a_clip_is_as_long_as_the_method_is_made_for() -> None:
    said = answered("--backbone", "wan2.1-t2v-1.3b", "--method", "ssg", "--gpus", "1")
    run = recipe(None, "ssg", "wan2.1-t2v-1.3b")
    backbone = shadow(backbones.backbone("wan2.1-t2v-1.3b"), torch.bfloat16)
    tower = run.method.attach(backbone, unwrapped).image.beside  # 304 M weights of ViT-L/14 at 336 pixels, in float32
    assert sum(each.numel() for each in tower.parameters()) == pytest.approx(304e6, rel=2e-3)
    frozen = sum(each.nbytes for part in (tower, backbone.transformer) for each in part.parameters()) / GIB
    assert f"{'the GPU holds all':40s} {frozen:7.1f}" in said
    assert "fca on cogvideox-2b, 16 x 480 x 720," in answered("--backbone", "cogvideox-2b", "--method", "fca")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backbone", "wan"), "no backbone is called 'wan'"),
        (("--backbone", "tiny-wan", "--gpu", "abacus"), "--gpu abacus: its peak is not known. Type --peak-tflops 989"),
        (("--backbone", "tiny-cogvideox", "--height", "50"), "plan: height and width must divide by 16; got 50 x 160"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: tuple[str, ...], says: str) -> None:
    made = CliRunner().invoke(command, arguments)
    assert made.exit_code == 2 and f"error: {says}" in made.stderr and "Traceback" not in made.output, made.output
