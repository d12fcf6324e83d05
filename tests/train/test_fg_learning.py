"""Whether Focal Guidance teaches: the tiny Wan that ships, frozen, whose weak blocks learn to read text anew at twice the size it was trained on.

The figures are printed (`pytest -s`), Moran's I before and after among them: reported, not asked for.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from catalogs.store import Catalog
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from train.backbones import load_backbone
from train.data import Loader
from train.diagnose import Diagnosis, diagnose
from train.evaluate import Evaluation
from train.fg import Fg
from train.index import build_index
from train.loop import fit
from train.method import unwrapped
from train.optimizer import Optimizer
from train.recipes import fg_tiny
from train.run import Run
from train.trained_run import open_run
from train.world import world
from vapdata.backbones import backbone
from vapdata.clip import Sampling
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.keywords import Keywords
from vapdata.encoders.umt5 import Umt5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_condition import VaeCondition
from vapdata.sources.miniature import Miniature

pytestmark = pytest.mark.slow

BACKBONE = "tiny-wan"
SAMPLING = Sampling(frames=9, height=64, width=64, fps=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `catalog`. One thread for torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("taught")
    grid: dict[str, Any] = {"backbone": BACKBONE, "sampling": SAMPLING}
    encoders = (ImageTokens(**grid), Keywords(**grid), Vae(**grid), VaeCondition(**grid), Umt5(backbone=BACKBONE))
    made = Recipe(name="miniature-wan", backbone=BACKBONE, sampling=SAMPLING, scan=(), encode=(EncodeStage(name="encode", encoders=encoders, batch=8),))
    source = Miniature(root=str(folder / "videos"), count=80, conditions=("negative", "flood", "pan_left", "slide_up"))
    build(Request(source=source, catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source miniature"), runner=in_process)
    yield folder
    torch.set_num_threads(threads)


def trained(run: Run, folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(first, last) evaluation of a run on the catalog."""
    with world("cpu") as here:
        made = fit(run, catalog=str(folder / "catalog"), folder=folder / name, world=here)
    assert made.step == run.steps
    return made.first, made.last


def test_the_weak_blocks_learn_to_read_the_text_anew(taught: Path) -> None:
    run = replace(
        fg_tiny(BACKBONE),
        steps=60,
        optimizer=Optimizer(lr=2e-3, beta2=0.999, warmup=10, schedule="cosine"),
        evaluation=Evaluation(every=0, samples=24, timesteps=8, batch=32),
    )
    first, last = trained(run, taught, "fg")
    before, after = diagnosed(taught, None), diagnosed(taught, taught / "fg")
    print(json.dumps({"before": first["eval_loss"], "after": last["eval_loss"], "drop": last["eval_drop"], "standard error": last["eval_drop_se"]}))
    for one, other in zip(before.layers, after.layers, strict=True):
        print(f"{one.name}: Moran's I {one.moran:.3f} before, {other.moran:.3f} after{', weak' if one.block in run.method.weak(backbone_of()) else ''}")
    assert last["eval_drop"] > 3 * last["eval_drop_se"] > 0


def backbone_of() -> Any:
    """The one that ships."""
    return load_backbone(backbone(BACKBONE), dtype=torch.float32, device=CPU)


def diagnosed(folder: Path, run: Path | None) -> Diagnosis:
    """The backbone by itself, or with what a run learned."""
    if run is not None:
        opened = open_run(run, device=CPU, dtype=torch.float32)
        module, used = opened.module, opened.backbone
    else:
        used = backbone_of()
        module = Fg(mode="zero_shot", fsg_text=False, fsg_latent=False, ac=False).attach(used, unwrapped)
    index = build_index(Catalog.open(folder / "catalog"), used.facts, Fg().reads(used.facts) | used.reads(), method="fg")
    return diagnose(module, used, Loader(index, used.facts, used.objective, seed=0, global_batch=1, micro_batch=1), samples=8, timesteps=2)
