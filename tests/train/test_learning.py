"""Whether training teaches: the tiny backbone that ships, frozen, and an expert that has only the reference to learn the motion from.

Random weights cannot show it: nothing a frozen random backbone attends to reaches its output in the right form. The one
that ships was trained by `train.full` on clips whose captions say what happens; here the captions are neutral, so that only
a reference tells. The figures are printed (`pytest -s`).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from catalogs.store import Catalog
from pipelines.pairing import Pairing
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from train.batch import Batch
from train.evaluate import Evaluation
from train.loop import fit
from train.optimizer import Optimizer
from train.recipes import vap_tiny
from train.run import Run
from train.world import world
from vapdata.clip import Sampling
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.sources.miniature import Miniature

pytestmark = pytest.mark.slow

CONDITIONS = ("negative", "flood", "pan_left", "tilt_up", "slide_up", "slide_down", "grey")
COUNT = 210
SAMPLING = Sampling(frames=9, height=32, width=32, fps=8)
BACKBONE = "tiny-cogvideox"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `catalog`: neutral captions, pairs. One thread for torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("taught")
    _build(folder)
    _pair(folder)
    yield folder
    torch.set_num_threads(threads)


def test_an_expert_learns_from_the_reference_alone(taught: Path) -> None:
    run = replace(
        vap_tiny(BACKBONE),
        steps=120,
        global_batch=16,
        micro_batch=16,
        optimizer=Optimizer(lr=2e-3, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=0, samples=32, timesteps=6, batch=32),
    )
    first, last = _train(run, taught, "vap")
    print(json.dumps({"before": _short(first), "after": _short(last)}))
    assert last["eval_drop"] > 3 * last["eval_drop_se"], "it learns"
    assert last["eval_reference_gain"] > 3 * last["eval_reference_gain_se"], "the right reference helps more than another's"


def test_four_pairs_can_be_learned_by_heart(taught: Path) -> None:
    clips = _four_pairs(taught)
    run = replace(
        vap_tiny(BACKBONE),
        steps=80,
        global_batch=4,
        micro_batch=4,
        where=f"clip_id in ({', '.join(repr(clip) for clip in clips)})",
        optimizer=Optimizer(lr=3e-3, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=0, samples=4, timesteps=16, batch=32),
    )
    frozen = _frozen_loss(run, taught)
    _, last = _train(run, taught, "by-heart")
    print(json.dumps({"frozen backbone": frozen, "after": last["eval_loss"], "below": 1 - last["eval_loss"] / frozen}))
    assert last["eval_loss"] < 0.7 * frozen


def _build(folder: Path) -> None:
    """The catalog."""
    grid: dict[str, Any] = {"backbone": BACKBONE, "sampling": SAMPLING}
    encoders = (Vae(**grid), VaeFirst(**grid, first=1), T5(backbone=BACKBONE))
    made = Recipe(name="miniature", backbone=BACKBONE, sampling=SAMPLING, encode=(EncodeStage(name="encode", encoders=encoders, batch=8),))
    source = Miniature(root=str(folder / "videos"), count=COUNT, conditions=CONDITIONS, captions="neutral")
    build(Request(source=source, catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source miniature"), runner=in_process)


def _pair(folder: Path) -> None:
    from pipelines.synthesize import Request as PairRequest
    from pipelines.synthesize import synthesize
    from vapdata.conditions.mined import Mined

    synthesize(PairRequest(catalog=str(folder / "catalog"), providers=(Mined(),), pairing=Pairing(), where=None, command="vapdata pairs"))


def _train(run: Run, folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(first, last) evaluation of a run on the catalog."""
    with world("cpu") as here:
        made = fit(run, catalog=str(folder / "catalog"), folder=folder / name, world=here)
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert made.step == run.steps
    return rows[0], rows[-1]


def _four_pairs(folder: Path) -> list[str]:
    """Clips of two conditions, two each, that are each other's references: four pairs among them."""
    rows = Catalog.open(folder / "catalog").read("pairs", ["condition", "target_clip_id", "reference_clip_id", "split"]).to_pylist()
    there = {(row["condition"], row["target_clip_id"], row["reference_clip_id"]) for row in rows if row["split"] == "train"}
    mutual: dict[str, tuple[str, str]] = {}
    for condition, target, reference in sorted(there):
        if (condition, reference, target) in there:
            mutual.setdefault(condition, (target, reference))
    return [clip for condition in sorted(mutual)[:2] for clip in mutual[condition]]


class _Alone(nn.Module):
    """The backbone by itself, under a method's face."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self._backbone = (backbone,)

    def forward(self, batch: Batch) -> torch.Tensor:
        backbone = self._backbone[0]
        noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        prediction = backbone.forward(noisy, batch.timesteps, batch.target)
        return backbone.objective.losses(prediction, batch.target.video, batch.noise, batch.timesteps)


def _frozen_loss(run: Run, folder: Path) -> float:
    """The loss of the backbone alone, without expert, on the grid that the run is evaluated on."""
    from train import evaluate
    from train.backbones import load_backbone
    from train.data import Loader
    from train.index import build_index
    from vapdata.backbones import backbone

    facts = backbone(BACKBONE)
    loaded = load_backbone(facts, dtype=torch.float32, device=torch.device("cpu"))
    reads = run.method.reads(facts) | loaded.reads()
    index = build_index(Catalog.open(folder / "catalog"), facts, reads, where=run.where, method="vap")
    loader = Loader(index, facts, loaded.objective, seed=run.seed, global_batch=4, micro_batch=4, references=1)
    entries = evaluate.grid(run.evaluation, index.validation, [index.samples[number].target for number in index.validation], loaded.objective, run.seed)
    found = evaluate.losses(entries, _Alone(loaded), loader, device=torch.device("cpu"), batch=16, bucket=lambda sample: index.samples[sample].bucket)
    return float(found.mean())


def _short(row: dict[str, Any]) -> dict[str, float]:
    names = ("step", "eval_loss", "eval_drop", "eval_drop_se", "eval_loss_shuffled", "eval_reference_gain", "eval_reference_gain_se", "reference_sensitivity")
    return {name: round(row[name], 5) for name in names}
