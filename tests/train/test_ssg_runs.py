"""SSG-DiT through the loop, on a real catalog: resumed exactly, exported and loaded again, sampled from a clip and from a picture of one's own.

And 30 steps on real clips, beside Wan, and rows of its ablation table.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from catalogs.store import Catalog
from train.ablate import command as ablate
from train.backbones import load_backbone
from train.batch import Reads
from train.checkpoint import Checkpoints
from train.data import Loader
from train.encode_input import encode_input
from train.evaluate import Evaluation
from train.export import load_export
from train.loop import fit
from train.optimizer import Optimizer
from train.recipes import ssg_tiny
from train.record import read_metrics
from train.run import Run
from train.sample import command
from train.samples import Index
from train.trained_run import open_run
from train.world import world
from vapdata import backbones

CPU = torch.device("cpu")
FACTS = backbones.backbone("tiny-cogvideox")
SMALL = ssg_tiny(FACTS.name)
RUN = replace(
    SMALL,
    method=replace(SMALL.method, conv_side=32, caption_drop=0.5, image_drop=0.5),
    steps=4,
    global_batch=2,
    micro_batch=1,
    seed=3,
    optimizer=Optimizer(lr=1e-3, warmup=1),
    evaluation=Evaluation(every=0, samples=1, timesteps=2),
    checkpoints=Checkpoints(every=2, background=False),
)


def fitted(run: Run, catalog: Path, folder: Path, *, resume: bool = False) -> None:
    """The run, to its last step."""
    with world("cpu") as here:
        fit(run, catalog=str(catalog), folder=folder, world=here, resume=resume)


@pytest.fixture(scope="module")
def run_folder(tiny_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("ssg") / "run"
    fitted(RUN, tiny_catalog, folder)
    return folder


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_very_same_weights(run_folder: Path, tiny_catalog: Path, tmp_path: Path) -> None:
    """Dropped captions and pictures included: both follow from seed, step and sample."""
    fitted(replace(RUN, steps=2), tiny_catalog, tmp_path / "run")
    fitted(RUN, tiny_catalog, tmp_path / "run", resume=True)
    ours, theirs = (read_metrics(folder) for folder in (tmp_path / "run", run_folder))
    assert [row["loss"] for row in ours if "loss" in row] == [row["loss"] for row in theirs if "loss" in row]
    files = [folder / "export" / "ssg.safetensors" for folder in (tmp_path / "run", run_folder)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_clips_without_a_caption_have_no_mask_and_are_left_out_and_counted(run_folder: Path) -> None:
    index = Index.load(run_folder / "index")
    assert index.left_out == {"no caption": 8}
    assert {each.role for each in index.products} == {"video", "first", "text", "masks", "picture"}


def test_what_is_exported_and_loaded_again_predicts_the_same(run_folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(FACTS, dtype=torch.float32, device=CPU)
    module = load_export(run_folder / "export", backbone)
    kept = shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    other = open_run(kept, device=CPU, dtype=torch.float32)
    assert other.step == 4 and other.weights.name == "step-00000004"
    index = Index.load(run_folder / "index")
    loader = Loader(index, FACTS, backbone.objective, seed=3, global_batch=1, micro_batch=1)
    batch = loader.grid(index.validation[:1], torch.tensor([700.0]), [5])
    loader.close()
    with torch.no_grad():
        found, again, frozen = (each.predict(batch.noise, batch.timesteps, batch.target, ()) for each in (module, other.module, SMALL.method.attach(backbone, lambda block: block)))
    assert torch.equal(found, again)
    assert not torch.equal(found, frozen)


def sampled(*arguments: str | Path) -> dict[str, object]:
    """What samples.json says of the one video that the command made."""
    answer = CliRunner().invoke(command, [str(each) for each in ("--steps", 2, "--device", "cpu", *arguments)])
    assert answer.exit_code == 0, answer.output
    (listed,) = json.loads((Path(answer.stdout.strip()).parent / "samples.json").read_text())
    assert (Path(answer.stdout.strip()).parent / listed["file"]).is_file()
    return listed


@pytest.mark.slow
def test_a_run_is_sampled_from_its_clips_and_from_a_picture_and_a_prompt(run_folder: Path, tmp_path: Path) -> None:
    listed = sampled("--run", run_folder, "--pairs", 1, "--out", tmp_path / "clips")
    assert listed["references"] == [] and listed["prompt"]
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    listed = sampled("--run", run_folder, "--image", tmp_path / "mine.png", "--prompt", "a square of mine", "--out", tmp_path / "mine")
    assert (listed["target"], listed["prompt"]) == ("mine", "a square of mine")


def test_a_clips_own_frame_and_caption_give_the_masks_and_the_picture_that_the_loader_gives(run_folder: Path) -> None:
    index = Index.load(run_folder / "index")
    loader = Loader(index, FACTS, load_backbone(FACTS, dtype=torch.float32, device=CPU).objective, seed=3, global_batch=1, micro_batch=1)
    clip = index.samples[0].target
    stored = loader.side([clip])
    loader.close()
    catalog = Catalog.open(index.catalog)
    (first,) = (row for row in catalog.read("frames").to_pylist() if row["clip_id"] == clip and row["product"].startswith("first"))
    (caption,) = (row for row in catalog.read("captions").to_pylist() if row["clip_id"] == clip)
    reads = Reads(text=True, masks=True, picture=True)
    made = encode_input(FACTS, reads, catalog.read_tensor(first).copy(), caption["text"], like=tuple(stored.video.shape), device=CPU)
    assert made.picture is not None and torch.equal(made.picture, stored.picture)
    torch.testing.assert_close(made.masks, stored.masks, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_real_clips_train_30_steps_beside_wan_and_what_was_learned_is_sampled_from(openvid_catalog: Path, tmp_path: Path) -> None:
    wan = ssg_tiny("tiny-wan")
    fitted(replace(RUN, backbone="tiny-wan", method=replace(wan.method, conv_side=32), steps=30, global_batch=4, micro_batch=4), openvid_catalog, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "loss" in row] == [*range(1, 31)] and all(0 < row["loss"] < 10 for row in rows if "loss" in row)
    assert rows[-1]["eval_drop"] > 0, "on two levels of noise of a clip that it may have seen"
    listed = sampled("--run", tmp_path / "run", "--pairs", 1, "--guidance", 4, "--out", tmp_path / "clips")
    assert str(listed["target"]).startswith("openvid/")


@pytest.mark.slow
def test_rows_of_its_table_are_run_and_the_backbone_alone_is_the_column_before(tiny_catalog: Path, tmp_path: Path) -> None:
    settings = ("evaluation.samples=1", "evaluation.timesteps=2", "evaluation.every=0", "run.global_batch=2", "run.micro_batch=2")
    few = ["--steps", "1", *(argument for setting in settings for argument in ("--set", setting))]
    rows = [argument for name in ("w/o attention mask", "SSG-DiT", "random mask") for argument in ("--row", name)]
    said = CliRunner().invoke(ablate, ["ssg", "--catalog", str(tiny_catalog), "--device", "cpu", "--out", str(tmp_path), *few, *rows])
    assert said.exit_code == 0, said.output
    table = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert [*table] == ["Wan2.1", "w/o SSG", "w/o attention mask", "w/o MLP mask", "SSG-DiT", "w/o blur", "random mask"]
    assert [name for name, row in table.items() if row["here"]] == ["w/o attention mask", "SSG-DiT", "random mask"] and "ANOTHER SCALE" in said.output
    assert table["w/o attention mask"]["here"]["before"] == table["SSG-DiT"]["here"]["before"], "step 0 is the frozen model, whatever the mask"
