"""Whether Frame-wise Conditioning Adaptation learns, and whether text of each frame's own is worth having.

Clips of ordered events: a grey scene, then one colour, then another, each for one latent frame, and a caption that says both in
order. The backbone is taught with the captions left out, so that it knows such clips and not what a caption means; it is
frozen, and the adapters have the caption to learn from. The figures are printed (`pytest -s`).
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from train.evaluate import Evaluation
from train.fca import Fca
from train.full import Full
from train.loop import fit
from train.optimizer import Optimizer
from train.recipes import fca_tiny, full_tiny
from train.run import Run
from train.world import world
from vapdata import video
from vapdata.clip import Sampling
from vapdata.encoders.blip2_words import Blip2Words
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.sources.folder import Folder

pytestmark = pytest.mark.slow

BACKBONE = "tiny-cogvideox"
COLOURS = {"red": (210, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (220, 210, 40), "black": (15, 15, 15), "white": (240, 240, 240)}
GREY = (128, 128, 128)
COPIES = 5
"""Of each of the 30 ordered pairs, with another brightness of the grey."""
SAMPLING = Sampling(frames=9, height=32, width=32, fps=8)


@pytest.fixture(scope="module")
def taught(drawn_weights: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `catalog` and `full`, the run that taught the backbone. One thread for torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ordered")
    _draw(folder / "videos")
    grid: dict[str, Any] = {"backbone": BACKBONE, "sampling": SAMPLING}
    encoders = (Vae(**grid), VaeFirst(**grid, first=1), ImageTokens(**grid, tower="blip2"), T5(backbone=BACKBONE), Blip2Words(backbone=BACKBONE))
    made = Recipe(name="ordered", backbone=BACKBONE, sampling=SAMPLING, scan=(), encode=(EncodeStage(name="encode", encoders=encoders, batch=8),))
    build(Request(source=Folder(root=str(folder / "videos")), catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source folder"), runner=in_process)
    run = replace(
        full_tiny(BACKBONE),
        method=Full(caption_drop=1.0),
        steps=120,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=2e-3, warmup=20, schedule="cosine", weight_decay=1e-2),
        evaluation=Evaluation(every=0, samples=2, timesteps=4),
    )
    _train(run, folder, "full")
    yield folder
    torch.set_num_threads(threads)


def test_adapters_learn_what_a_caption_means_and_frames_text_is_not_worse_than_none(taught: Path) -> None:
    base = replace(
        fca_tiny(BACKBONE),
        steps=50,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=2e-3, warmup=10, schedule="cosine"),
        evaluation=Evaluation(every=0, samples=24, timesteps=6, batch=24),
    )
    last = {name: _train(replace(base, method=method), taught, name) for name, method in _methods().items()}
    print(json.dumps({name: {key: round(row[key], 5) for key in ("eval_loss", "eval_drop", "eval_drop_se")} for name, row in last.items()}))
    for row in last.values():
        assert row["eval_drop"] > 3 * row["eval_drop_se"], "it learns"
    error = sum(row["eval_drop_se"] ** 2 for row in last.values()) ** 0.5
    assert last["layerwise and mask"]["eval_loss"] < last["no frames' text"]["eval_loss"] + 2 * error


def _methods() -> dict[str, Fca]:
    usual = fca_tiny(BACKBONE).method
    assert isinstance(usual, Fca)
    return {"layerwise and mask": usual, "no frames' text": replace(usual, ftc="none")}


def _draw(root: Path) -> None:
    """The clips, each in a folder of its own so that splits are drawn clip by clip, and captions.csv."""
    rows = []
    for copy in range(COPIES):
        for first, second in permutations(COLOURS, 2):
            file = f"{first}-{second}-{copy}/clip.mp4"
            grey = np.array(GREY) + 12 * (copy - COPIES // 2)
            frames = [np.full((32, 32, 3), colour, np.uint8) for colour in (grey, *[COLOURS[first]] * 4, *[COLOURS[second]] * 4)]
            (root / file).parent.mkdir(parents=True)
            video.write(root / file, iter([*frames, frames[-1]]), 8.0)
            rows.append((file, f"a gray scene is {first} then {second}"))
    with (root / "captions.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "caption"), *rows])


def _train(run: Run, folder: Path, name: str) -> dict[str, Any]:
    """The last evaluation of a run on the catalog, beside the taught backbone where there is one."""
    weights = folder / "full" / "export"
    with world("cpu") as here:
        made = fit(run, catalog=str(folder / "catalog"), folder=folder / name.replace(" ", "-"), world=here, weights=str(weights) if weights.is_dir() else None)
    assert made.step == run.steps
    return made.last
