"""Focal Guidance trained from real clips by the real recipe: 30 steps, stopped and gone on with, exported, sampled from, and its table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hand_made import Hand, hand_made
from safetensors.torch import load_file

from train.ablate import command as ablate
from train.checkpoint import Checkpoints
from train.evaluate import Evaluation
from train.fg import Fg, FgModule
from train.loop import Finished, fit
from train.optimizer import Optimizer
from train.recipes import fg_tiny
from train.run import Run
from train.sample import command as sample
from train.trained_run import open_run
from train.world import world
from vapdata import backbones

CPU = torch.device("cpu")


def a_run(backbone: str = "tiny-wan", **changes: Any) -> Run:
    settings = {"evaluation": Evaluation(every=0, samples=2, timesteps=2), "checkpoints": Checkpoints(every=0, background=False), "global_batch": 4, "micro_batch": 4}
    return replace(fg_tiny(backbone), **{**settings, "optimizer": Optimizer(lr=1e-3, warmup=2), **changes})


def trained(run: Run, catalog: Path, folder: Path, **more: Any) -> Finished:
    with world("cpu") as here:
        return fit(run, catalog=str(catalog), folder=folder, world=here, **more)


@pytest.mark.slow
def test_real_clips_train_30_steps_and_what_was_learned_is_sampled_from(openvid_catalog: Path, tmp_path: Path) -> None:
    made = trained(a_run(steps=30), openvid_catalog, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert made.step == 30 and len(rows) == 31 and all(0 < row["loss"] < 10 for row in rows[1:])
    run = open_run(tmp_path / "run", device=CPU, dtype=torch.float32)
    assert isinstance(run.module, FgModule) and len(run.index.samples) >= 4
    said = CliRunner().invoke(sample, ["--run", str(tmp_path / "run"), "--pairs", "1", "--steps", "3", "--guidance", "4", "--device", "cpu", "--out", str(tmp_path / "samples")])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "samples" / "sheet.png").is_file() and len([*(tmp_path / "samples").glob("*.mp4")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["tiny-wan", "tiny-hunyuan"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights_and_its_export_says_the_same_as_its_checkpoint(backbone: str, tmp_path: Path) -> None:
    facts = backbones.backbone(backbone)
    hand_made(tmp_path / "c", facts, [Hand(name=f"clip-{number}", keywords=number % 3, tokens=150, shape=(16, 3, 4, 4)) for number in range(8)], wide=True)
    trained(a_run(backbone, steps=6), tmp_path / "c", tmp_path / "whole")
    trained(a_run(backbone, steps=3), tmp_path / "c", tmp_path / "parts")
    trained(a_run(backbone, steps=6), tmp_path / "c", tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "export" / "fg.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    exported = open_run(tmp_path / "whole", device=CPU, dtype=torch.float32)
    (tmp_path / "whole" / "export").rename(tmp_path / "elsewhere")
    kept = open_run(tmp_path / "whole", device=CPU, dtype=torch.float32)
    side, noise = _a_side(exported), torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (run.module.predict(noise, torch.tensor([500.0]), side, ()) for run in (exported, kept))
        stock = exported.backbone.forward(noise, torch.tensor([500.0]), side)
    assert torch.equal(one, other) and not torch.equal(one, stock)


def _a_side(run: Any) -> Any:
    from train.data import Loader

    loader = Loader(run.index, run.backbone.facts, run.backbone.objective, seed=0, global_batch=1, micro_batch=1)
    return loader.side([next(each.target for each in run.index.samples if each.target.endswith("5"))])


@pytest.mark.slow
def test_a_zero_shot_run_is_its_evaluation_and_can_be_opened_and_asked_for_again(tmp_path: Path) -> None:
    hand_made(tmp_path / "c", backbones.backbone("tiny-wan"), [Hand(name=f"clip-{number}", keywords=2) for number in range(4)], wide=True)
    run = a_run(steps=7, method=Fg(mode="zero_shot", cache_threshold=0.05))
    made = trained(run, tmp_path / "c", tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (made.step, [row["step"] for row in rows]) == (7, [0, 7]) and rows[0]["eval_loss"] == rows[1]["eval_loss"] > 0 and rows[1]["eval_drop"] == 0
    opened = open_run(tmp_path / "run", device=CPU, dtype=torch.float32)
    assert isinstance(opened.module, FgModule) and opened.step == 7 and opened.module.state_dict() == {}
    assert trained(run, tmp_path / "c", tmp_path / "run", resume=True).already
    base = a_run(steps=7, method=Fg(mode="zero_shot", fsg_text=False, fsg_latent=False, ac=False))
    assert trained(base, tmp_path / "c", tmp_path / "base").first["eval_loss"] != made.first["eval_loss"], "guidance says something with nothing learned"


@pytest.mark.slow
def test_the_papers_table_is_run_in_its_order(tmp_path: Path) -> None:
    hand_made(tmp_path / "c", backbones.backbone("tiny-wan"), [Hand(name=f"clip-{number}", keywords=2) for number in range(4)], wide=True)
    small = ["--set", "run.global_batch=2", "--set", "evaluation.samples=1", "--set", "evaluation.timesteps=2", "--set", "evaluation.every=0"]
    said = CliRunner().invoke(ablate, ["fg", "--catalog", str(tmp_path / "c"), "--backbone", "tiny-wan", "--steps", "2", "--device", "cpu", *small, "--out", str(tmp_path / "t")])
    assert said.exit_code == 0, said.output
    rows = json.loads((tmp_path / "t" / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base", "post-training alone", "zero-shot", "attention cache", "semantic guidance", "full"]
    assert [row["here"]["trained weights"] > 0 for row in rows] == [False, True, False, True, True, True]
    assert rows[0]["here"]["drop"] == rows[2]["here"]["drop"] == 0 and "ANOTHER SCALE" in said.output
    assert [row["paper"]["dynamic attribute (higher is better)"] for row in rows] == [0.3512, 0.3628, 0.3512, 0.3827, 0.3804, 0.386]
