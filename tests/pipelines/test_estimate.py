"""The plan of a build against the build itself."""

import dataclasses
from pathlib import Path

import pytest

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.estimate import SAMPLE, Estimate, estimate
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import EncodeStage, recipe
from vapdata.encoders.first_frame import FirstFrame
from vapdata.errors import CallError
from vapdata.sources.folder import Folder
from vapdata.sources.synthetic import Synthetic


@pytest.fixture(scope="module")
def request_for(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """Twelve synthetic videos, and a recipe of first frames alone: nothing is loaded."""
    root = tmp_path_factory.mktemp("twelve")
    source = Synthetic(root=str(root / "videos"), count=12)
    list(source.list())
    made = recipe("tiny")
    frames = EncodeStage(name="encode", encoders=(FirstFrame(sampling=made.sampling),))
    return Request(source=source, catalog=str(root / "catalog"), recipe=dataclasses.replace(made, encode=(frames,)))


@pytest.mark.slow
def test_a_plan_counts_what_the_build_then_does(request_for: Request, tmp_path: Path) -> None:
    request = dataclasses.replace(request_for, catalog=str(tmp_path / "catalog"))
    before = estimate(request)
    assert not Path(request.catalog).exists()
    assert (before.listed, before.absent, before.to_scan, before.to_encode, before.sampled) == (12, 0, 12, 0, SAMPLE)
    summary = build(request, runner=in_process)
    assert before.shards == summary.plan.new_shards
    assert before.clips_to_encode == pytest.approx(summary.clips["kept"], rel=0.25)
    written = sum(file.stat().st_size for file in Path(request.catalog).glob("tensors/first-96x160/*.parquet"))
    assert before.bytes_by_product["first-96x160"] == pytest.approx(written, rel=0.25)
    after = estimate(request)
    assert (after.shards, after.to_scan, after.to_encode, after.clips_to_encode) == (0, 0, 0, 0)
    assert after.stage_hours == {"scan": 0, "encode": 0}


@pytest.mark.slow
def test_a_plan_knows_what_an_earlier_build_left(request_for: Request, tmp_path: Path) -> None:
    request = dataclasses.replace(request_for, catalog=str(tmp_path / "catalog"))
    scanned = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, encode=()), limit=5)
    build(scanned, runner=in_process)
    with connect(Catalog.open(request.catalog), ["clips"]) as con:
        clips = con.execute("select count(*) from clips").fetchone()[0]
    now = estimate(request)
    assert (now.to_scan, now.to_encode) == (7, clips)
    assert estimate(dataclasses.replace(request, limit=6)).to_scan == 1


@pytest.mark.slow
def test_weights_that_are_not_here_leave_the_time_of_encoding_open(request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    real = dataclasses.replace(request_for, recipe=dataclasses.replace(recipe("fca-bridge")))
    said = estimate(real)
    assert said.kept > 0
    assert said.product_bytes == {}
    assert any("encoding was not measured" in line and "vapdata models --recipe fca-bridge" in line for line in said.lines())
    assert any("rough" in line for line in said.lines())


@pytest.mark.slow
def test_a_predicate_over_the_whole_catalog_is_said_to_be_one(request_for: Request) -> None:
    said = estimate(dataclasses.replace(request_for, where="motion >= (select avg(motion) from clips_wide)"))
    assert said.catalog_wide
    assert 0 < said.kept < said.clips
    assert "the whole catalog" in said.lines()[-1]


def test_a_wrong_predicate_or_root_is_refused_at_once(request_for: Request, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="motion"):
        estimate(dataclasses.replace(request_for, where="moton > 1"))
    with pytest.raises(CallError, match="nowhere"):
        estimate(dataclasses.replace(request_for, source=Folder(root=str(tmp_path / "nowhere"))))


def test_the_figures_scale_with_the_clips() -> None:
    one = Estimate(
        recipe="mine", listed=1000, absent=0, malformed=0, shards=16, to_scan=1000, to_encode=10, sampled=8, clips=10, kept=4, failed=0,
        scan_s=16.0, encode_s={"encode": 8.0}, product_bytes={"vae": 4_000_000}, rough_bytes=1,
    )  # fmt: skip
    assert one.clips_to_encode == 1000 * 4 / 8 + 10
    assert one.bytes_by_product == {"vae": 510e6}
    assert one.stage_hours == {"scan": 2000 / 3600, "encode": 1020 / 3600}
    assert "about 510 MB of tensors" in "\n".join(one.lines())
