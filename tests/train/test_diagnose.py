"""The diagnosis of blocks: what is measured is Moran's I of the maps themselves, what is written, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from hand_made import Hand, hand_made
from PIL import Image

from train import moran
from train.backbones import load_backbone
from train.data import Loader
from train.diagnose import Diagnosis, command, diagnose
from train.evaluate import paired
from train.fg import Fg, FgModule
from train.index import build_index
from train.method import Backbone, unwrapped
from train.objective import seed_of
from vapdata import backbones

SHAPE = (16, 3, 8, 12)
HANDS = [Hand(name=f"clip-{number}", keywords=number, shape=SHAPE, split="train") for number in range(4)]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 0 to 3 keywords, of random numbers."""
    path = tmp_path_factory.mktemp("hand") / "catalog"
    hand_made(path, backbones.backbone("tiny-wan"), HANDS, wide=True)
    return path


@pytest.fixture(scope="module")
def opened(catalog: Path) -> tuple[Any, Backbone, Loader]:
    from catalogs.store import Catalog

    backbone = load_backbone(backbones.backbone("tiny-wan"), dtype=torch.float32, device=torch.device("cpu"))
    module = Fg(mode="zero_shot").attach(backbone, unwrapped)
    index = build_index(Catalog.open(catalog), backbone.facts, Fg().reads(backbone.facts) | backbone.reads(), method="fg")
    return module, backbone, Loader(index, backbone.facts, backbone.objective, seed=0, global_batch=1, micro_batch=1)


def called(arguments: Sequence[str]) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_each_blocks_figure_is_morans_i_of_its_maps_averaged_over_keywords_then_frames_timesteps_and_clips(opened: tuple[FgModule, Backbone, Loader]) -> None:
    module, backbone, loader = opened
    found = diagnose(module, backbone, loader, samples=50, timesteps=2)
    assert set(found.clips) == {"clip-1", "clip-2", "clip-3"}, "a clip without keywords has nothing to show"
    by_clip = []
    for clip in found.clips:
        number = [sample.target for sample in loader.index.samples].index(clip)
        batch = loader.grid([number] * 2, backbone.objective.grid(2).float(), [seed_of(0, place, 0, clip) for place in range(2)])
        with torch.no_grad():
            maps = module.maps(backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps), batch.timesteps, batch.target)
        assert maps[7].shape == (2, int(clip[-1]), 3, 4, 6)
        frames = maps[7].mean(dim=1).flatten(0, 1)
        by_clip.append(sum(float(moran.moran(frame)) for frame in frames) / len(frames))
    mean, error = paired(torch.tensor(by_clip, dtype=torch.float64))
    assert (found.layers[7].moran, found.layers[7].moran_se) == pytest.approx((mean, error), abs=1e-9)
    assert [layer.block for layer in found.layers] == list(range(8)) and found.layers[7].name == "blocks.7"
    assert found.heat.shape == (8, 4, 6) and float(found.heat.amax()) == 1 and float(found.heat.amin()) == 0


def test_the_blocks_of_lowest_i_are_proposed_two_in_five_or_as_many_as_asked(opened: tuple[FgModule, Backbone, Loader]) -> None:
    found = diagnose(*opened, samples=2, timesteps=1)
    ranked = [layer.block for layer in sorted(found.layers, key=lambda layer: layer.moran)]
    assert found.weak == tuple(sorted(ranked[:3])) and len(found.clips) == 2
    assert diagnose(*opened, samples=2, timesteps=1, weak=5).weak == tuple(sorted(ranked[:5]))


@pytest.mark.slow
def test_the_command_writes_table_heat_maps_and_picture_and_says_what_to_type(catalog: Path, tmp_path: Path) -> None:
    made = called(["--catalog", str(catalog), "--backbone", "tiny-wan", "--samples", "2", "--timesteps", "1", "--device", "cpu", "--out", str(tmp_path / "d")])
    assert made.exit_code == 0, made.output
    rows = pyarrow.csv.read_csv(tmp_path / "d" / "layers.csv").to_pylist()
    assert rows == pq.read_table(tmp_path / "d" / "layers.parquet").to_pylist() and len(rows) == 8
    weak = [row["block"] for row in rows if row["weak"]]
    assert f"use them: --set fg.weak_layers={','.join(map(str, weak))}" in made.output and made.output.count("  weak") == len(weak)
    assert json.loads((tmp_path / "d" / "diagnosis.json").read_text())["weak"] == weak
    heat = pq.read_table(tmp_path / "d" / "heatmaps.parquet").to_pylist()
    assert len(heat) == 8 and all(len(row["map"]) == 24 and row["width"] == 6 for row in heat)
    with Image.open(tmp_path / "d" / "layers.png") as picture:
        assert picture.width > 800 and picture.height > 500
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None and len(colours) > 100, "lines, shading and heat maps"


def test_what_cannot_be_diagnosed_is_refused(catalog: Path, tmp_path: Path) -> None:
    out = ["--device", "cpu", "--out", str(tmp_path / "d")]
    wordless = called(["--catalog", str(catalog), "--backbone", "tiny-wan", "--where", "clip_id = 'clip-0'", *out])
    assert wordless.exit_code == 2 and "none of 1 clips of" in wordless.output and "--set keywords.minimum=1" in wordless.output
    other = called(["--catalog", str(catalog), "--backbone", "tiny-cogvideox", *out])
    assert other.exit_code == 2 and "error: fg: tiny-cogvideox is no image-to-video backbone" in other.output
    strange = called(["--catalog", str(catalog), "--backbone", "tiny-wan", "--run", str(tmp_path / "none"), *out])
    assert strange.exit_code == 2 and "so no run" in strange.output


def test_a_long_model_shows_heat_maps_of_blocks_from_first_to_last(tmp_path: Path) -> None:
    from train.diagnose import Layer, plot

    layers = tuple(Layer(block=each, name=f"blocks.{each}", moran=0.8 - each / 60, moran_se=0.01, std=0.2, std_se=0.01, constant=0, weak=11 <= each <= 26) for each in range(40))
    plot(tmp_path / "layers.png", Diagnosis(layers=layers, clips=("a",), heat=torch.rand(40, 30, 52)), "forty blocks")
    assert (tmp_path / "layers.png").stat().st_size > 20_000
