"""The benchmark at work on a small catalog: scenes known from names, clips that answer to captions, rows and sheets."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, Recipe
from train.full import Full
from train.miniature.__main__ import Turn, work_out
from train.miniature.__main__ import bench as tabled
from train.miniature.rows import Bench, of_ablation, of_tokens
from train.miniature.studio import Studio, World
from train.miniature.tiers import TIERS, UNSEEN, Row, Tier
from vapdata.clip import Sampling
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.scenes import CONDITIONS
from vapdata.sources.miniature import Miniature

pytestmark = pytest.mark.slow

CLIPS = 104
TIER = Tier(name="test", says="a test", clips=CLIPS, judged=20, scenes=4, steps=1, denoising=10, seeds=(0,), checked=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench whose catalog is there: four clips of every condition, latents and texts alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bench")
    sampling = Sampling(frames=9, height=32, width=32, fps=8)
    grid: dict[str, Any] = {"backbone": "tiny-cogvideox", "sampling": sampling}
    stage = EncodeStage(name="encode", encoders=(Vae(**grid), VaeFirst(**grid, first=1), T5(backbone="tiny-cogvideox")), batch=8)
    made = Recipe(name="miniature", backbone="tiny-cogvideox", sampling=sampling, encode=(stage,))
    source = Miniature(root=str(folder / "videos"), count=CLIPS)
    build(Request(source=source, catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source miniature"), runner=in_process)
    yield Bench(TIER, 0, folder, "tiny-cogvideox")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def studio(bench: Bench) -> Studio:
    """Its catalog as train.full reads it."""
    return bench.studio(Full())


def test_a_clips_name_tells_its_scene(bench: Bench, studio: Studio) -> None:
    rows = {row.target: row for row in studio.index.samples}
    assert len(rows) == CLIPS
    source = Miniature(root=str(bench.folder / "videos"), count=CLIPS)
    for video in source.list():
        made = bench.world.made(video.video_id)
        assert (made.condition.name, "validation" if made.held_out else "train") == (video.label, video.split)


def test_samples_are_of_held_out_subjects_and_go_round_the_conditions(bench: Bench, studio: Studio) -> None:
    made = [bench.world.made(studio.index.samples[number].target) for number in studio.samples("validation", 12)]
    assert all(each.scene.subject.held_out for each in made)
    every = {bench.world.made(studio.index.samples[number].target).condition.name for number in studio.samples("validation", CLIPS)}
    assert len(every) > 8
    assert {each.condition.name for each in made[: len(every)]} == every, "each once before one comes twice"


def test_true_clips_come_through_the_vae_as_what_they_are(bench: Bench, studio: Studio) -> None:
    row = bench.row("target", studio, studio.targets(studio.samples("validation", 20)))
    print(row)
    assert row.figures["accuracy"] > 0.75
    assert (bench.folder / "sheets" / "target.png").stat().st_size > 1000


def test_the_backbone_that_ships_does_what_a_caption_says(bench: Bench, studio: Studio) -> None:
    samples = studio.samples("validation", 20)
    made = studio.clips(samples, None, guidance=2.0)
    told = bench.row("captions", studio, made)
    print(told)
    assert told.figures["accuracy"] > 0.5 > 12 / len(CONDITIONS)
    alone = studio.clips(samples[:3], None, guidance=2.0)
    apart = [np.abs(one.frames.astype(int) - other.frames.astype(int)).max() for one, other in zip(alone, made[:3], strict=True)]
    assert max(apart) <= 2, "noise follows from seed and target, not from the batch"


def test_a_clip_may_be_given_another_clips_caption(bench: Bench, studio: Studio) -> None:
    samples = studio.samples("validation", 2)
    own, exchanged = studio.clips(samples, None), studio.clips(samples, None, exchanged=("text", "text_mask"))
    assert [each.target for each in own] == [each.target for each in exchanged]
    assert all(np.array_equal(one.frames[0], other.frames[0]) or np.abs(one.frames[0].astype(int) - other.frames[0]).mean() < 8 for one, other in zip(own, exchanged, strict=True))
    assert all(np.abs(one.frames[-1].astype(int) - other.frames[-1]).mean() > 2 for one, other in zip(own, exchanged, strict=True))


def test_a_method_is_trained_with_settings_and_goes_on_where_it_was_stopped(bench: Bench) -> None:
    bench.world.pair(UNSEEN)
    settings = ("vap.rope=shared", "evaluation.samples=2", "evaluation.timesteps=2")
    run = bench.train("vap", *settings)
    assert json.loads((run / "config.json").read_text())["method"]["rope"] == "shared"
    longer = Bench(replace(TIER, steps=2), 0, bench.folder, "tiny-cogvideox")
    (run / "export").rename(run / "export of one step")
    assert longer.train("vap", *settings) == run
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2], "the first step was not taken again"


def test_a_tier_without_ablation_or_more_tokens_has_no_rows_of_it(bench: Bench) -> None:
    assert of_ablation(bench) == of_tokens(bench) == []


def test_more_tokens_lie_in_a_catalog_of_their_own(bench: Bench) -> None:
    large = Bench(replace(TIER, large=52, on_ray=False), 0, bench.folder, "tiny-cogvideox").large()
    words = large.world.building("neutral")
    assert {"miniature-large", "miniature.height=64", "miniature.width=64", "miniature.count=52", "here"} <= set(words)
    assert large.world.catalog != bench.world.catalog


def test_seeds_are_worked_out_side_by_side_and_make_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Turn(tier=TIERS["smoke"], seed=seed, out=tmp_path, backbone="tiny-cogvideox", device="cpu") for seed in (0, 1)]
    assert tabled(turns, ("masks",)), "a smoke test is held against nothing"
    shown = capsys.readouterr().out
    print(shown)
    assert "| mask attention | pointing" in shown and " ± " in shown
    assert (tmp_path / "table.md").read_text() == shown
    assert all("visual prompt" in json.loads(turn.kept("masks").read_text()) for turn in turns)
    assert all((turn.folder / "logs" / "masks" / "log.txt").is_file() for turn in turns)


def test_rows_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def made(here: Bench) -> list[Row]:
        calls.append(here.version)
        return [Row(name="a", figures={"accuracy": 0.5})]

    monkeypatch.setattr("train.miniature.rows.TRIALS", {"masks": made})
    turn = Turn(tier=TIER, seed=0, out=tmp_path, backbone="tiny-cogvideox", device="cpu")
    assert turn.lanes(["masks", "neutral", "full"]) == [["full", "neutral"], ["masks"]]
    work_out(turn, ["masks"])
    assert json.loads(turn.kept("masks").read_text()) == {"a": {"accuracy": 0.5}}
    assert turn.lanes(["masks", "neutral", "full"]) == [["full", "neutral"]]
    monkeypatch.setattr("vapdata.tiny.version", lambda name: "other weights")
    assert turn.lanes(["masks"]) == [["masks"]] and len(calls) == 1


def test_a_world_of_two_events_knows_both_and_asks_for_their_order(tmp_path: Path, bench: Bench) -> None:
    ordered = bench.ordered()
    assert ordered.world.folder != bench.world.folder and ordered.world.events == 2
    assert "miniature.events=2" in ordered.world.building("full", methods=True)
    assert "miniature-methods" in ordered.world.building("full", methods=True)
    assert ordered.world.made("miniature/miniature-abc-00007.mp4").condition.name.count(">") == 1


def test_a_world_is_built_by_a_command(tmp_path: Path) -> None:
    words = World(folder=tmp_path, backbone="tiny-wan", clips=5, seed=2, turn=20.0).building("neutral")
    assert words[:5] == ["-m", "vapdata.cli", "build", "--source", "miniature"]
    assert {"miniature.count=5", "miniature.captions=neutral", "miniature.turn=20", "miniature-wan"} <= set(words)
