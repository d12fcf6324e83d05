"""What a preview says is kept is what a build keeps; each threshold is shown with the clips on both of its sides."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import Recipe
from pipelines.recipes import recipe
from pipelines.select import Preview, preview
from vapdata import cli
from vapdata.encoders.t5 import T5
from vapdata.errors import CallError
from vapdata.filters.brightness import Brightness
from vapdata.filters.extent import Extent
from vapdata.sources.synthetic import Synthetic

pytestmark = pytest.mark.slow

WHERE = "brightness >= (select quantile_cont(brightness, 0.4) from clips_wide) and duration_s > 1 and frames < 1000"


@pytest.fixture(scope="module", autouse=True)
def _one_shard() -> Iterator[None]:
    """All videos in one shard: what is asked here does not depend on their number, and each costs a few files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.FEWEST_SHARDS", 1)
        yield


@pytest.fixture(scope="module")
def made() -> Recipe:
    encode = (dataclasses.replace(recipe("tiny").encode[-1], encoders=(T5(backbone="tiny-cogvideox"),)),)
    return dataclasses.replace(recipe("tiny"), name="texts", scan=(Brightness(), Extent()), encode=encode)


@pytest.fixture(scope="module")
def catalog(videos: Path, made: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("select") / "catalog"
    build(Request(source=Synthetic(root=str(videos), count=8), catalog=str(path), recipe=made, where="false"), runner=in_process)
    return path


@pytest.fixture(scope="module")
def shown(catalog: Path, made: Recipe) -> Preview:
    return preview(str(catalog), made, WHERE)


def test_a_preview_counts_jointly_and_condition_by_condition(catalog: Path, shown: Preview) -> None:
    con = connect(Catalog.open(str(catalog)))
    (threshold,) = con.execute("select quantile_cont(brightness, 0.4) from clips_wide").fetchone()
    above, clips, hours = con.execute("select count(*) filter (brightness >= ?), count(*), sum(end_s - start_s) / 3600 from clips_wide", [threshold]).fetchone()
    con.close()
    assert (shown.clips, shown.hours) == (clips, pytest.approx(hours))
    assert list(shown.constants.values()) == [threshold]
    assert [each.kept for each in shown.conditions] == [above, clips, clips]
    assert [each.rejected_alone for each in shown.conditions] == [clips - above, 0, 0]
    assert len(shown.kept) == above
    assert shown.to_encode == above
    assert not shown.measured
    assert shown.clip_seconds == {}


def test_each_threshold_is_shown_with_the_clips_on_both_sides(catalog: Path, shown: Preview) -> None:
    sides = shown.conditions[0].sides
    (threshold,) = shown.constants.values()
    assert set(sides) == {"rejected below", "kept from"}
    assert max(value for _, value in sides["rejected below"]) < threshold <= min(value for _, value in sides["kept from"])
    assert [value for _, value in sides["rejected below"]] == sorted((value for _, value in sides["rejected below"]), reverse=True)
    assert shown.conditions[1].sides == {}


def test_a_build_keeps_what_the_preview_said_and_the_next_preview_knows_what_it_took(catalog: Path, videos: Path, made: Recipe, shown: Preview) -> None:
    summary = build(Request(source=Synthetic(root=str(videos), count=8), catalog=str(catalog), recipe=made, where=WHERE), runner=in_process)
    con = connect(Catalog.open(str(catalog)))
    encoded = tuple(row[0] for row in con.execute("select clip_id from texts where clip_id is not null order by 1").fetchall())
    (constants,) = con.execute("select constants from runs where predicate = ?", [WHERE]).fetchone()
    con.close()
    assert encoded == shown.kept
    assert summary.clips["kept"] == len(shown.kept)
    assert str(next(iter(shown.constants.values()))) in constants
    after = preview(str(catalog), made, WHERE)
    assert (after.kept, after.to_encode, after.measured) == (shown.kept, 0, True)
    assert after.clip_seconds["encode"] > 0
    assert after.clip_bytes > 1000


def test_a_score_that_lacks_is_told_with_what_fills_it_in(catalog: Path, made: Recipe) -> None:
    scored = dataclasses.replace(made, score=recipe("quality-quantiles").score)
    found = preview(str(catalog), scored, "aesthetic > 5")
    assert found.kept == ()
    assert found.conditions[0].unknown == found.clips
    assert f"           fill in:        vapdata backfill aesthetic --catalog {catalog}" in found.lines()


def test_clips_that_were_compared_with_nothing_are_told_apart_too(catalog: Path, made: Recipe) -> None:
    found = preview(str(catalog), made, "not duplicate")
    assert (found.kept, found.conditions[0].unknown) == ((), found.clips)
    assert f"           fill in:        vapdata dedup --catalog {catalog}" in found.lines()


def test_both_ends_of_a_range_are_thresholds(catalog: Path, made: Recipe) -> None:
    values = sorted(value for side in preview(str(catalog), made, "brightness < 0").conditions[0].sides.values() for _, value in side)
    assert values, "a condition that keeps nothing shows the nearest clips"
    middle = preview(str(catalog), made, f"brightness between {values[0] - 1} and {values[0] + 1}").conditions[0]
    assert middle.kept >= 1
    assert "kept to" in middle.sides or "kept from" in middle.sides


def test_the_command_prints_it_and_refuses_what_build_refuses(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["select", "--catalog", str(catalog), "--where", "brightness > 0"]) == 0
    out = capsys.readouterr().out
    assert "kept     9 clips (100%)" in out
    assert "where    (brightness > 0): keeps 9" in out
    assert cli.run(["select", "--catalog", str(catalog), "--where", "brightnes > 0"]) == 2
    assert "no column is called 'brightnes' (did you mean 'brightness'?)" in capsys.readouterr().err


def test_a_predicate_that_is_none_is_refused(catalog: Path, made: Recipe) -> None:
    with pytest.raises(CallError, match="wanted true or false"):
        preview(str(catalog), made, "brightness")
