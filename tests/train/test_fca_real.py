"""Frame-wise Conditioning Adaptation on catalogs of real clips: Something-Something and BridgeData, by the papers' recipes at the tiny backbone's size."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from catalogs.store import Catalog
from pipelines import dataset_recipes
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from pipelines.summary import Summary
from train.checkpoint import newest
from train.data import Loader
from train.evaluate import Evaluation
from train.fca import Fca
from train.loop import Finished, fit
from train.recipes import RECIPES
from train.run import Run
from train.sample import command as sample
from train.trained_run import EXPORT, open_run
from train.world import world
from vapdata.sources.bridge import Bridge
from vapdata.sources.ssv2 import SSv2
from vapdata.step import Encoder, Source

pytestmark = pytest.mark.slow

BACKBONE = "tiny-cogvideox"
STEPS = 30


@dataclass(frozen=True)
class Built:
    """One dataset's catalog, and the run on it."""

    folder: Path
    summary: Summary
    run: Run
    finished: Finished


def at_tiny(recipe: Recipe) -> Recipe:
    """The same list of encoders for the tiny backbone at 32 x 48, without the scan's scores."""
    sampling = replace(recipe.sampling, height=32, width=48)

    def small(encoder: Any) -> Encoder:
        changes = {"backbone": BACKBONE, "sampling": sampling}
        made: Encoder = replace(encoder, **{each.name: changes[each.name] for each in fields(encoder) if each.name in changes})
        return made

    stage = EncodeStage(name="encode", encoders=tuple(small(encoder) for encoder in recipe.encoders))
    return replace(recipe, backbone=BACKBONE, sampling=sampling, scan=(), encode=(stage,))


@pytest.fixture(scope="module", params=["ssv2", "bridge"])
def built(request: pytest.FixtureRequest, real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The catalog and a run of 30 steps with the paper's settings, narrow modules but for that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    source: Source = {"ssv2": SSv2, "bridge": Bridge}[request.param](root=str(real_clips / request.param))
    recipe = at_tiny({"ssv2": dataset_recipes.fca_ssv2, "bridge": dataset_recipes.fca_bridge}[request.param]())
    summary = build(Request(source=source, catalog=str(folder / "catalog"), recipe=recipe, command="vapdata build"), runner=in_process)
    run = RECIPES[f"fca-{request.param}"](BACKBONE)
    run = replace(
        run,
        method=replace(run.method, ftc_width=64),
        steps=STEPS,
        global_batch=4,
        micro_batch=2,
        evaluation=Evaluation(every=0, samples=2, timesteps=2),
        checkpoints=replace(run.checkpoints, every=15),
    )
    yield Built(folder, summary, run, trained(run, folder / "catalog", folder / "run"))
    torch.set_num_threads(threads)


def trained(run: Run, catalog: Path, folder: Path, *, resume: bool = False) -> Finished:
    """The run, on a CPU."""
    with world("cpu") as here:
        return fit(run, catalog=str(catalog), folder=folder, world=here, resume=resume)


def test_every_clip_is_16_frames_and_what_is_missing_is_said(built: Built) -> None:
    catalog, clips = Catalog.open(built.folder / "catalog"), built.summary.clips
    rows = catalog.read("latents", ["product", "shape", "pixel_frames"]).to_pylist()
    shapes = {row["product"]: (tuple(row["shape"]), row["pixel_frames"]) for row in rows}
    assert isinstance(built.run.method, Fca)
    assert sorted(shapes.values()) == sorted([((16, 4, 4, 6), 16), ((16, 1, 4, 6), built.run.method.n_init)]), "16 frames are 4 latent ones, 1 or 2 initial frames one"
    assert clips["kept"] == clips["clips"] and clips["failed"] == 0
    assert clips["without_caption"] >= 1, "a test clip without a label, a trajectory without lang.txt"
    words = {row["clip_id"] for row in catalog.read("texts", ["product", "clip_id"]).to_pylist() if "words" in row["product"]}
    assert len(words - {None}) == clips["clips"], "a clip without caption is told the empty prompt's words"


def test_it_trains_30_steps_and_goes_on_exactly_where_it_was_stopped(built: Built, tmp_path: Path) -> None:
    assert built.finished.step == STEPS
    assert built.finished.last["eval_loss"] != built.finished.first["eval_loss"]
    cut = Path(shutil.copytree(built.folder / "run", tmp_path / "run"))
    last = newest(cut)
    assert last is not None
    shutil.rmtree(last)
    shutil.rmtree(cut / EXPORT)
    again = trained(built.run, built.folder / "catalog", cut, resume=True)
    assert (again.step, again.already) == (STEPS, False)
    for file in sorted((built.folder / "run" / EXPORT).rglob("*.safetensors")):
        mine, theirs = load_file(cut / file.relative_to(built.folder / "run")), load_file(file)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert again.last["eval_loss"] == built.finished.last["eval_loss"]


def test_an_export_predicts_what_the_checkpoint_does(built: Built, tmp_path: Path) -> None:
    """Read back with nothing but its card, against the weights of the last checkpoint."""
    bare = Path(shutil.copytree(built.folder / "run", tmp_path / "run"))
    shutil.rmtree(bare / EXPORT)
    exported, kept = (open_run(folder, device=torch.device("cpu"), dtype=torch.float32) for folder in (built.folder / "run", bare))
    loader = Loader(exported.index, exported.backbone.facts, exported.backbone.objective, seed=0, global_batch=1, micro_batch=1)
    batch = loader.step(0).micro[0]
    loader.close()
    with torch.no_grad():
        found = [run.module.predict(batch.noise, batch.timesteps, batch.target, ()) for run in (exported, kept) if run.module is not None]
    assert len(found) == 2 and torch.equal(*found)


def test_what_was_learned_is_sampled_from(built: Built, tmp_path: Path) -> None:
    said = CliRunner().invoke(sample, ["--run", str(built.folder / "run"), "--pairs", "1", "--steps", "2", "--guidance", "6", "--device", "cpu", "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "sheet.png").is_file() and len([*tmp_path.glob("*.mp4")]) == 1
