"""Stages on records, in this process: notes, batches, failures, what a record carries."""

import pickle
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from catalogs.store import Catalog
from pipelines.recipes import EncodeStage, Recipe
from pipelines.record import Record, is_permanent
from pipelines.stages import MAX_DEATHS, THUMB, Encode, Job, ScanStage, Stage
from pipelines.work import ShardWork, Todo
from vapdata.clip import Sample, Sampling
from vapdata.errors import MissingInput, Transient, Unreadable
from vapdata.sources.synthetic import Synthetic
from vapdata.step import Cell, Product

GRID = Sampling(frames=2, height=16, width=16, fps=8)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Writes each clip's mean colour; refuses the clips it is told to, as whole batches do."""

    name: ClassVar[str] = "mean"
    reads: ClassVar[frozenset[str]] = frozenset({"first"})
    refuse: str = "nothing"

    def products(self) -> tuple[Product, ...]:
        return (Product(name="mean-16x16", table="features", model_id="mean", revision="1", dtype="f32"),)

    def weights(self) -> Sequence[object]:
        return ()

    def open(self, device: str | None = None) -> "Mean":
        return self

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        for sample in samples:
            if self.refuse in sample.clip_id:
                raise MissingInput(f"{sample.clip_id} is refused")
        return [
            [Cell(product="mean-16x16", clip_id=sample.clip_id, data=sample.first.mean((0, 1)).astype(np.float32), shape=(3,))] for sample in samples
        ]

    def constants(self) -> list[Cell]:
        return []


def job(catalog: Path, synthetic: Synthetic, refuse: str = "nothing", batch: int = 2) -> Job:
    made = Recipe(
        name="mean", backbone="none", sampling=GRID, encode=(EncodeStage(name="encode", encoders=(Mean(refuse=refuse),), batch=batch),)
    )
    opened = Catalog.open(str(catalog), create=True)
    for product in (THUMB, *made.products()):
        opened.claim(product.name, product.settings)
    return Job(
        catalog=str(catalog), root=synthetic.root, dataset="synthetic", run_id="run", recipe=made, where="true", select=True, score_kinds=made.score_kinds()
    )


def work(synthetic: Synthetic, count: int = 3) -> ShardWork:
    rows = []
    for video in sorted(synthetic.list(), key=lambda each: each.video_id)[:count]:
        names = ("video_id", "dataset", "name", "uri", "split_group", "caption", "label", "license", "split", "start_s", "end_s", "folder_fps", "seconds", "bytes")
        rows.append({**{name: getattr(video, name) for name in names}, "split": "train", "source_scores": None, "shard": "s-000000"})
    return ShardWork(shard="s-000000", videos=rows)


def ran(stage: Stage, record: Record, tick: object = lambda *of: None) -> Record:
    with closing(stage.open()) as opened:
        return opened(record, tick)


def test_a_record_gathers_rows_through_both_stages_and_stays_small(synthetic: Synthetic, tmp_path: Path) -> None:
    settings = job(tmp_path / "catalog", synthetic)
    seen: list[tuple[str, int, int]] = []
    record = ran(ScanStage(job=settings), Record(work=work(synthetic)), lambda *of: seen.append(of))
    record = ran(Encode(job=settings, stage=settings.recipe.encode[0]), record, lambda *of: seen.append(of))
    assert record.stopped is None
    clips = {row["clip_id"] for row in record.rows["clips"]}
    assert {row["clip_id"] for row in record.rows["features"]} == clips
    assert {row["clip_id"] for row in record.rows["frames"]} == clips
    assert len(pickle.dumps(record)) < 100_000
    assert sum(done for stage, done, _ in seen if stage == "scan") == 3
    assert sum(done for stage, done, _ in seen if stage == "encode") == len(clips)
    assert set(record.spans) == {"scan", "encode"}


def test_one_refused_clip_does_not_fail_its_batch(synthetic: Synthetic, tmp_path: Path) -> None:
    settings = job(tmp_path / "catalog", synthetic, refuse="00001", batch=8)
    record = ran(ScanStage(job=settings), Record(work=work(synthetic)))
    record = ran(Encode(job=settings, stage=settings.recipe.encode[0]), record)
    failed = list(record.rows["failures"])
    assert failed
    assert all(row["step"] == "mean" and row["error"] == "MissingInput" and "00001" in row["clip_id"] for row in failed)
    assert len(record.rows["features"]) == len(record.rows["clips"]) - len(failed)


def test_a_clip_that_took_its_worker_down_twice_is_given_up_and_the_rest_goes_on(synthetic: Synthetic, tmp_path: Path) -> None:
    settings = job(tmp_path / "catalog", synthetic)
    catalog = Catalog.open(str(tmp_path / "catalog"))
    shard = work(synthetic)
    deadly = shard.videos[0]["video_id"]
    for _ in range(MAX_DEATHS):
        catalog.note(shard.shard, "scan", deadly)
    record = ran(ScanStage(job=settings), Record(work=shard))
    assert [(row["video_id"], row["error"]) for row in record.rows["failures"]] == [(deadly, "WorkerDied")]
    assert len({row["video_id"] for row in record.rows["clips"]}) == 2
    assert catalog.attempts(shard.shard, "scan", deadly) == MAX_DEATHS


def test_a_missing_file_is_one_failure(synthetic: Synthetic, tmp_path: Path) -> None:
    settings = job(tmp_path / "catalog", synthetic)
    shard = work(synthetic)
    shard.videos[1]["uri"] = "not-there.mp4"
    record = ran(ScanStage(job=settings), Record(work=shard))
    assert len(record.rows["failures"]) == 1
    assert "not-there.mp4" in record.rows["failures"][0]["message"]


def test_a_stage_that_cannot_write_stops_the_shard_and_says_why(synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = job(tmp_path / "catalog", synthetic)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Catalog, "write_tensors", full)
    record = ran(ScanStage(job=settings), Record(work=work(synthetic)))
    assert record.fatal
    assert "No space left" in (record.stopped or "")


def test_work_that_was_done_before_is_not_done_again(synthetic: Synthetic, tmp_path: Path) -> None:
    settings = job(tmp_path / "catalog", synthetic)
    scanned = ran(ScanStage(job=settings), Record(work=work(synthetic)))
    clip = {**scanned.rows["clips"][0], "uri": scanned.fresh[0]["uri"], "folder_fps": None}
    again = ShardWork(shard="s-000000", todo=[Todo(clip=clip, products=("mean-16x16",), caption=None)])
    record = ran(Encode(job=settings, stage=settings.recipe.encode[0]), Record(work=again))
    assert [row["clip_id"] for row in record.rows["features"]] == [clip["clip_id"]]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [(Unreadable("x"), True), (MissingInput("x"), True), (Transient("x"), False), (MemoryError(), False), (ConnectionResetError(), False), (ValueError("x"), False)],
)
def test_what_may_pass_is_told_from_what_will_not(error: Exception, permanent: bool) -> None:
    assert is_permanent(error) is permanent
