"""Sampling a run: the command end to end, what the loop asks for, a picture and a prompt of one's own, and wrong calls."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from catalogs.store import Catalog
from train.backbones import load_backbone
from train.batch import Reads
from train.checkpoint import Checkpoints, Saver, Stamp
from train.data import Loader
from train.encode_input import encode_input, fitted, opened
from train.export import Card, export
from train.index import Index, build_index
from train.method import Backbone, unwrapped
from train.sample import command, write_samples
from train.sheet import layout
from train.trained_run import open_run
from train.vap import Vap
from train.world import world
from vapdata import backbones
from vapdata.errors import CallError
from vapdata.video import frames, probe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(backbones.backbone("tiny-cogvideox"), dtype=torch.float32, device=CPU)


# A picture and a prompt of one's own


def test_what_a_picture_and_a_prompt_do_not_say_is_refused() -> None:
    facts, picture = backbones.backbone("tiny-cogvideox"), np.zeros((96, 160, 3), np.uint8)
    for reads, what in ((Reads(image_tokens="wan", keywords=True), "image_tokens, keywords"), (Reads(first=2), "2 first frames")):
        with pytest.raises(CallError, match=f"this run also reads {what}, .* --pairs 4"):
            encode_input(facts, reads, picture, "a", like=(1, 16, 3, 12, 20), device=CPU)


def test_a_picture_is_squeezed_into_the_grid_or_cut_to_it() -> None:
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[:, 200:] = 255
    stretched, cropped = (fitted(picture, 96, 160, resize) for resize in ("stretch", "crop"))
    assert stretched.shape == cropped.shape == (96, 160, 3)
    assert (stretched[:, :70] == 0).all() and (stretched[:, 90:] == 255).all()
    assert (cropped[:, :70] == 0).all() and (cropped[:, 90:] == 255).all()
    square = np.zeros((200, 200, 3), np.uint8)
    square[:30] = 255
    assert (fitted(square, 96, 160, "crop")[0] == 0).all(), "the upper edge is cut off"
    assert (fitted(square, 96, 160, "stretch")[0] == 255).all()


def test_a_file_that_is_no_picture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(CallError, match=r"--image .*text.png: cannot be read as a picture"):
        opened(tmp_path / "text.png")
    with pytest.raises(CallError, match=r"--image .*none.png: there is no such file"):
        opened(tmp_path / "none.png")

# A catalog, a run's folder, and the command


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a bright square, of another size than the catalog's clips."""
    pixels = np.full((60, 100, 3), (30, 90, 200), np.uint8)
    pixels[20:40, 10:30] = (250, 230, 60)
    path = tmp_path_factory.mktemp("pictures") / "mine.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def run_folder(tiny_catalog: Path, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the loop leaves behind, for a method that has learned nothing yet."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    method = Vap()
    index = build_index(Catalog.open(tiny_catalog), backbone.facts, method.reads(backbone.facts) | backbone.reads(), method=method.name)
    folder.mkdir()
    index.save(folder / "index")
    config = {"name": "vap-tiny", "backbone": backbone.facts.name, "seed": 3, "method": {"name": method.name, **dataclasses.asdict(method)}}
    (folder / "config.json").write_text(json.dumps(config))
    card = Card(backbone=backbone.facts.name, catalog=index.catalog, index=index.fingerprint, step=7)
    export(folder / "export", method.attach(backbone, unwrapped), method, backbone, card)
    return folder


def _loader(run_folder: Path, backbone: Backbone) -> Loader:
    return Loader(Index.load(run_folder / "index"), backbone.facts, backbone.objective, seed=3, global_batch=1, micro_batch=1, references=1)


def _clip(run_folder: Path) -> str:
    """A clip that the run reads."""
    return Index.load(run_folder / "index").samples[0].target


def _run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def test_the_command_samples_pairs_into_videos_a_list_and_a_sheet(run_folder: Path, tiny_catalog: Path, tmp_path: Path) -> None:
    answer = _run("--run", run_folder, "--catalog", tiny_catalog, "--pairs", 2, "--steps", 2, "--device", "cpu", "--out", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.strip() == str(tmp_path / "out" / "sheet.png")
    listed = json.loads((tmp_path / "out" / "samples.json").read_text())
    captions = {row["clip_id"]: row["text"] for row in Catalog.open(tiny_catalog).read("captions").to_pylist()}
    index = Index.load(run_folder / "index")
    assert [each["target"] for each in listed] == [index.samples[place].target for place in (index.validation[0], index.validation[-1])]
    for each in listed:
        assert each["prompt"] == captions[each["target"]]
        assert len(each["references"]) == 1 and each["references"][0] != each["target"]
        assert probe(tmp_path / "out" / each["file"]).fps == 8.0
        assert [frame.image.shape for frame in frames(tmp_path / "out" / each["file"])] == [(32, 32, 3)] * 9
    plan = layout(2, 3, 4, (32, 32))
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (plan.width, plan.height)


def test_the_command_lends_a_clip_s_look_to_a_picture(run_folder: Path, picture: Path, tmp_path: Path) -> None:
    reference = _clip(run_folder)
    own = ("--reference", reference, "--image", picture, "--prompt", "a square of mine")
    answer = _run("--run", run_folder, *own, "--steps", 2, "--device", "cpu", "--out", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    (listed,) = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (listed["target"], listed["references"], listed["prompt"]) == ("mine", [reference], "a square of mine")
    assert (tmp_path / "out" / "00-mine.mp4").is_file() and listed["file"] == "00-mine.mp4"


def test_a_catalog_s_own_frame_and_caption_give_the_method_what_the_loader_gives(run_folder: Path, backbone: Backbone) -> None:
    loader, clip = _loader(run_folder, backbone), _clip(run_folder)
    catalog = Catalog.open(loader.index.catalog)
    (first,) = (row for row in catalog.read("frames").to_pylist() if row["clip_id"] == clip and row["product"] == "first-32x32")
    (caption,) = (row for row in catalog.read("captions").to_pylist() if row["clip_id"] == clip)
    stored = loader.side([clip])
    made = encode_input(backbone.facts, Reads(text=True, first=1, references=1), catalog.read_tensor(first).copy(), caption["text"], like=tuple(stored.video.shape), device=CPU)
    assert made.first is not None and made.text is not None and made.text_mask is not None
    assert torch.equal(made.first, stored.first) and torch.equal(made.text, stored.text) and torch.equal(made.text_mask, stored.text_mask)


@pytest.mark.slow
def test_equal_calls_make_equal_files_and_another_seed_others(run_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert _run("--run", run_folder, "--pairs", 1, "--steps", 1, "--seed", seed, "--device", "cpu", "--out", tmp_path / name).exit_code == 0
    first, second, third = (next((tmp_path / name).glob("*.mp4")).read_bytes() for name in "abc")
    assert first == second != third


@pytest.mark.slow
def test_the_loop_s_own_samples_are_made_alike_and_leave_the_module_training(run_folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    loader, module = _loader(run_folder, backbone), Vap().attach(backbone, unwrapped)
    module.train()
    made = write_samples(module, backbone, loader, loader.index.validation[:1], tmp_path / "samples" / "step-00000010", steps=2, guidance=6.0, seed=3)
    assert made == tmp_path / "samples" / "step-00000010" / "sheet.png" and made.is_file()
    assert module.training
    by_command = _run("--run", run_folder, "--pairs", 1, "--steps", 2, "--device", "cpu", "--out", tmp_path / "command")
    assert by_command.exit_code == 0
    assert next(made.parent.glob("*.mp4")).read_bytes() == next((tmp_path / "command").glob("*.mp4")).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--run", "nowhere"), "--run nowhere: there is no config.json, so no run."),
        (("--run", "RUN", "--pairs", "1", "--image", "a.png"), "Give one or the other"),
        (("--run", "RUN", "--image", "a.png"), "go together"),
        (("--run", "RUN", "--image", "none.png", "--prompt", "a", "--reference", "d/1"), "there is no such file"),
        (("--run", "RUN", "--image", "PICTURE", "--prompt", "a"), "vap takes 1 reference, got 0"),
        (("--run", "RUN", "--image", "PICTURE", "--prompt", "a", "--reference", "d/nobody"), "clip d/nobody is in no sample of this run"),
        (("--run", "RUN", "--steps", "0"), "--steps 0: this backbone's scheduler takes 1 to 1000"),
        (("--run", "RUN", "--device", "warp"), "--device warp: torch knows no such device"),
        (("--run", "RUN", "--catalog", "nowhere"), "no catalog at nowhere"),
    ],
)
def test_a_wrong_call_is_one_sentence(run_folder: Path, picture: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    there = {"RUN": str(run_folder), "PICTURE": str(picture)}
    answer = _run(*(there.get(each, each) for each in arguments), "--out", tmp_path / "out")
    assert answer.exit_code == 2, answer.output
    assert says in answer.stderr and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


def test_a_run_that_has_kept_nothing_yet_says_so(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    answer = _run("--run", tmp_path / "run", "--out", tmp_path / "out")
    assert answer.exit_code == 2 and "has neither an export nor a complete checkpoint yet" in answer.stderr


def test_a_run_without_an_export_is_sampled_from_its_newest_checkpoint(run_folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    method = Vap()
    module = method.attach(backbone, unwrapped)
    with torch.no_grad():
        next(module.parameters()).mul_(2.0)
    described = json.dumps({"name": "vap", **dataclasses.asdict(method)})
    where: dict[str, Any] = {"backbone": backbone.facts.name, "catalog": "c", "index": "i", "generation": None, "global_batch": 1, "seed": 3}
    stamp = Stamp(method="vap", config=described, step=0, ranks=1, **where)
    with world("cpu"):
        saver = Saver(tmp_path / "run", Checkpoints(), stamp)
        saver.save(20, module, torch.optim.AdamW([each for each in module.parameters() if each.requires_grad]), None, block=True)
    opened_run = open_run(tmp_path / "run", device=CPU, dtype=torch.float32)
    assert opened_run.step == 20 and opened_run.weights.name == "step-00000020"
    assert isinstance(opened_run.module, nn.Module)
    assert all(torch.equal(value, opened_run.module.state_dict()[name]) for name, value in module.state_dict().items())
