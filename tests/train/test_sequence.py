"""Tokens shared out, and weights split: losses, predictions and gradients are those of one process, on every family and for every method."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from train.backbones import load_backbone
from train.fca import Fca
from train.parallel import Parallel
from train.sequence import Group, SplitBackbone
from train.world import World
from vapdata import backbones
from vapdata.errors import CallError

SPLIT = {"sequence": 2}
ALL_SPLIT = {"shard": 2, "replicate_backbone": False}
FCA = {"ftc_width": 64, "latent_frames": 3}
SSG = {"image_encoder": "conv", "conv_side": 48, "conv_patch": 8, "conv_width": 64, "conv_depth": 1, "zero_init": False}
CASES: list[list[Any]] = [
    ["tiny-cogvideox", "vap", {"references": 2}, SPLIT, {}],
    ["tiny-cogvideox", "vap", {"fusion": "residual"}, SPLIT, {"keep": "nothing"}],
    ["tiny-wan", "vap", {}, SPLIT, {"keep": "attention"}],
    ["tiny-wan", "vap", {"fusion": "single_branch_lora", "ref_timestep": "constant"}, {"sequence": 2, "shard": 2}, {}],
    ["tiny-hunyuan", "vap", {"expert_layers": [0, 2, 4], "ref_timestep": "target"}, SPLIT, {}],
    ["tiny-hunyuan", "full", {}, {"sequence": 2, "shard": 2}, {"keep": "nothing"}],
    ["tiny-cogvideox", "fca", FCA, ALL_SPLIT, {"keep": "nothing"}],
    ["tiny-cogvideox", "fca", {**FCA, "ftc": "uniform_refine", "init_inject": "controlnet_dup"}, {"shard": 2}, {}],
    ["tiny-cogvideox", "fca", {"ft": "lora", "ftc": "none", "rank": 4}, ALL_SPLIT, {}],
    ["tiny-wan", "ssg", SSG, ALL_SPLIT, {}],
    ["tiny-hunyuan", "ssg", {**SSG, "share_out": True}, {"shard": 2}, {"keep": "attention"}],
    ["tiny-wan", "fg", {}, ALL_SPLIT, {"keep": "nothing"}],
    ["tiny-hunyuan", "fg", {}, {"shard": 2}, {}],
    ["tiny-wan", "fg", {"mode": "zero_shot", "ac_scope": "two_pass"}, {"shard": 2}, {}],
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each of two processes has measured, case by case."""
    folder = tmp_path_factory.mktemp("sequence")
    script = Path(__file__).with_name("sequence_ranks.py")
    made = subprocess.run([sys.executable, str(script), str(folder), json.dumps(CASES)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0]}-{CASES[number][1]}-{number}")
def test_two_processes_that_share_tokens_or_weights_have_the_losses_and_gradients_of_one(number: int, found: list[list[dict[str, Any]]]) -> None:
    for rank, each in enumerate(case[number] for case in found):
        assert each["losses"] < 1e-5 and each["gradients"] < 2e-5 and each["prediction"] < 2e-5, each
        assert "sequence" not in CASES[number][3] or each["held"] == [14 - rank], "27 tokens: each process holds its own"
        assert each["silent"] == []


def test_heads_that_cannot_be_shared_are_refused_with_numbers_that_fit() -> None:
    backbone = load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(CallError) as refused:
        SplitBackbone(backbone, Group(group=None, rank=0, size=3))
    assert str(refused.value) == "parallel.sequence=3: tiny-wan has 4 attention heads, which 3 processes cannot share evenly. Type --set parallel.sequence=1, or one of 2, 4"


def test_a_method_that_needs_every_token_is_refused() -> None:
    layout = Parallel(sequence=2).over(World(rank=0, ranks=2, device=torch.device("cpu")))
    with pytest.raises(CallError, match=r"parallel\.sequence=2: train\.fca needs every token of a sample in one process\. Type --set parallel\.sequence=1"):
        layout.backbone(load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=torch.device("cpu")), Fca())


@pytest.mark.parametrize(("rows", "shares"), [(27, [9, 9, 9]), (28, [10, 9, 9]), (2, [1, 1, 0])])
def test_rows_are_shared_as_evenly_as_can_be(rows: int, shares: list[int]) -> None:
    groups = [Group(group=None, rank=rank, size=3) for rank in range(3)]
    assert [group.share(rows, group.rank) for group in groups] == shares
    assert [row for group in groups for row in range(rows)[group.own(rows)]] == [*range(rows)]
