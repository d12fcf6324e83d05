"""Whether SSG-DiT learns what the mask alone tells: a scene of two colours side by side, of which one floods the frame, and the mask covers that one.

The backbone is taught with captions that do not say which, so that it knows such clips and has to guess; it is frozen, and
the visual prompt, sharp where the planted mask is high and blurred elsewhere, is the only thing that differs between the
two clips of a scene. The figures are printed (`pytest -s`).
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Hand, Tensors, write
from torch import nn

from catalogs.store import Catalog
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from train import evaluate
from train.backbones import load_backbone
from train.batch import Batch
from train.data import Loader
from train.evaluate import Evaluation
from train.export import load_export
from train.index import build_index
from train.loop import Finished, fit
from train.optimizer import Optimizer
from train.recipes import full_tiny, ssg_tiny
from train.run import Run
from train.world import world
from vapdata import video
from vapdata.backbones import backbone
from vapdata.clip import Sampling
from vapdata.encoders.first_frame import FirstFrame
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.sources.folder import Folder

pytestmark = pytest.mark.slow

BACKBONE = "tiny-cogvideox"
FACTS = backbone(BACKBONE)
CPU = torch.device("cpu")
SAMPLING = Sampling(frames=9, height=32, width=32, fps=8)
COLOURS = {"red": (210, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (220, 210, 40), "black": (15, 15, 15), "white": (240, 240, 240)}
CAPTION = "one of two colors floods the frame"
COPIES = 2
"""Of each of the 30 scenes with each of the two floods, a little darker."""
GRID = 8
SIDES = {"left": slice(0, GRID // 2), "right": slice(GRID // 2, GRID)}


@dataclass(frozen=True)
class Taught:
    """The folder with `catalog`, `full` (the run that taught the backbone) and `ssg`, and the last of these."""

    folder: Path
    run: Run
    finished: Finished


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    """A backbone that knows such clips, and adapters trained beside it. One thread for torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("floods")
    _draw(folder / "videos")
    grid: dict[str, Any] = {"backbone": BACKBONE, "sampling": SAMPLING}
    encoders = (FirstFrame(sampling=SAMPLING), Vae(**grid), VaeFirst(**grid, first=1), T5(backbone=BACKBONE))
    made = Recipe(name="floods", backbone=BACKBONE, sampling=SAMPLING, scan=(), encode=(EncodeStage(name="encode", encoders=encoders, batch=8),))
    build(Request(source=Folder(root=str(folder / "videos")), catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source folder"), runner=in_process)
    _plant_masks(Catalog.open(folder / "catalog"))
    few: dict[str, Any] = {"global_batch": 8, "micro_batch": 8, "optimizer": Optimizer(lr=2e-3, warmup=20, schedule="cosine", weight_decay=1e-2)}
    _train(replace(full_tiny(BACKBONE), steps=120, evaluation=Evaluation(every=0, samples=2, timesteps=4), **few), folder, "full")
    # The blur is wide: what the mask does not cover is left as a mixture of the frame's two colours, which a small encoder can tell
    # from either. The caption says nothing here, so it is not in the adapters' context, and no picture is dropped.
    method = replace(ssg_tiny(BACKBONE).method, conv_side=32, blur=1.0, c_text=False, image_drop=0.0)
    run = replace(ssg_tiny(BACKBONE), method=method, steps=120, evaluation=Evaluation(every=0, samples=24, timesteps=6, batch=24), **few)
    yield Taught(folder, run, _train(run, folder, "ssg"))
    torch.set_num_threads(threads)


def test_adapters_learn_which_color_floods_from_the_mask_alone(taught: Taught) -> None:
    last = taught.finished.last
    print("ssg", json.dumps({name: round(last[name], 5) for name in ("eval_loss", "eval_drop", "eval_drop_se")}))
    assert last["eval_drop"] > 3 * last["eval_drop_se"] > 0


def test_the_loss_rises_when_masks_are_exchanged_between_clips(taught: Taught) -> None:
    """Beside the run's own evaluation, sample by sample on its grid, every clip with the mask of one whose other side floods."""
    difference, error = _exchanged(taught)
    print("exchanged", json.dumps({"difference": round(difference, 5), "standard error": round(error, 5)}))
    assert difference > 3 * error > 0


def _exchanged(taught: Taught) -> tuple[float, float]:
    """How much higher the exported adapters' loss is with exchanged masks: mean and standard error."""
    loaded = load_backbone(FACTS, dtype=torch.float32, device=CPU, folder=str(taught.folder / "full" / "export"))
    module, run = load_export(taught.folder / "ssg" / "export", loaded), taught.run
    index = build_index(Catalog.open(taught.folder / "catalog"), FACTS, run.method.reads(FACTS) | loaded.reads(), method="ssg")
    loader = Loader(index, FACTS, loaded.objective, seed=run.seed, global_batch=8, micro_batch=8)
    targets = [index.samples[number].target for number in index.validation]
    entries = evaluate.grid(run.evaluation, index.validation, targets, loaded.objective, run.seed)
    masks = dict(zip(targets, loader.side(targets).masks, strict=True))
    left = {clip: bool(mask[0, :, SIDES["left"]].sum() > mask[0, :, SIDES["right"]].sum()) for clip, mask in masks.items()}
    others = {clip: masks[next(other for other in targets if left[other] != left[clip])] for clip in targets}
    own, exchanged = (
        evaluate.losses(entries, each, loader, device=CPU, batch=24, bucket=lambda sample: index.samples[sample].bucket) for each in (module, _Exchanged(module, others))
    )
    loader.close()
    assert float(own.mean()) == pytest.approx(taught.finished.last["eval_loss"], rel=1e-5), "the run's own evaluation"
    return evaluate.paired(exchanged - own)


class _Exchanged(nn.Module):
    """A module that is given other masks than its clips'."""

    def __init__(self, module: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._module, self._masks = module, masks

    def forward(self, batch: Batch) -> torch.Tensor:
        masks = torch.stack([self._masks[clip] for clip in batch.target.clip_ids])
        return self._module(replace(batch, target=replace(batch.target, masks=masks)))


def _draw(root: Path) -> None:
    """The clips, each in a folder of its own so that splits are drawn clip by clip, and captions.csv: two halves, then one colour."""
    rows = []
    for copy in range(COPIES):
        for first, second in permutations(COLOURS, 2):
            pair = [np.clip(np.array(COLOURS[name]) - 12 * copy, 0, 255).astype(np.uint8) for name in (first, second)]
            scene = np.concatenate([np.broadcast_to(colour, (32, 16, 3)) for colour in pair], axis=1)
            for side, colour in zip(SIDES, pair, strict=True):
                file = f"{first}-{second}-{side}-{copy}/clip.mp4"
                (root / file).parent.mkdir(parents=True)
                video.write(root / file, iter([scene, *[np.broadcast_to(colour, (32, 32, 3)).copy()] * 9]), 8.0)
                rows.append((file, CAPTION))
    with (root / "captions.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "caption"), *rows])


def _plant_masks(catalog: Catalog) -> None:
    """Masks as `clip_mask` would write them, all three grids alike: 1 on the half that floods."""
    arrays = []
    for clip in sorted(row["clip_id"] for row in catalog.read("clips", ["clip_id"]).to_pylist()):
        (side,) = (side for side in SIDES if f"-{side}-" in clip)
        mask = np.zeros((3, GRID, GRID), np.float32)
        mask[:, :, SIDES[side]] = 1
        arrays.append((Hand(name=clip), mask))
    settings = {"height": 32, "width": 32, "resize": SAMPLING.resize, "revision": "planted"}
    columns = {"resize": SAMPLING.resize, "pixel_height": 32, "pixel_width": 32, "text_truncated": False}
    text = {"captioner": "source", "role": "source", "text_sha256": hashlib.sha256(CAPTION.encode()).hexdigest()}
    made = Tensors(table="masks", name="tiny-clip-mask-32x32", settings=settings, dtype="f32", arrays=arrays, columns=columns | text)
    with catalog.lock("planted"):
        catalog.append({"masks": write(catalog, made)})


def _train(run: Run, folder: Path, name: str) -> Finished:
    """A run on the catalog, beside the taught backbone where there is one."""
    weights = folder / "full" / "export"
    with world("cpu") as here:
        return fit(run, catalog=str(folder / "catalog"), folder=folder / name, world=here, weights=str(weights) if weights.is_dir() else None)
