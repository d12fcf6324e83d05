"""Made videos: planned from seeds and ids, rendered whole or not at all, entered with full lineage, built and paired as others are."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from catalogs.queries import connect
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import in_process
from pipelines.render import remove_strays
from pipelines.synthesize import Request, Summary, synthesize
from vapdata import cli
from vapdata.conditions.mined import Mined
from vapdata.conditions.procedural import PROGRAMS
from vapdata.conditions.rendered import Procedural, told
from vapdata.errors import CallError
from vapdata.video import frames

Query = Callable[[Path, str], list[tuple]]

def _made(catalog: Path, places: tuple[Path, Path, str], **changes: object) -> Summary:
    settings = {"only": ("pan_left", "melt"), **changes}
    request = Request(catalog=str(catalog), providers=(Procedural(**settings),), roots={"synthetic": str(places[1])}, recipe=places[2])
    return synthesize(request, runner=in_process)


@pytest.fixture
def catalog(places: tuple[Path, Path, str], tmp_path: Path) -> Path:
    """A copy to render in."""
    return Path(shutil.copytree(places[0], tmp_path / "catalog"))


@pytest.fixture(scope="module")
def made(places: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog with two conditions of four videos each, by the plain loop. Copy it before changing it."""
    catalog = Path(shutil.copytree(places[0], tmp_path_factory.mktemp("made") / "catalog"))
    _made(catalog, places)
    return catalog


def _files(catalog: Path) -> set[str]:
    return {os.path.relpath(path, catalog / "media") for path in (catalog / "media").rglob("*") if path.is_file()}


def _rows(catalog: Path) -> dict[str, list[tuple]]:
    """Pairs, conditions and made videos, as two equal runs share them."""
    tables = {"pairs": "true", "conditions": "true", "videos": "parent_clip_id is not null"}
    return {
        table: sorted(duckdb.sql(f"select * exclude (run_id, commit, created_at) from '{catalog}/{table}/*.parquet' where {where}").fetchall(), key=repr)
        for table, where in tables.items()
    }


@pytest.mark.slow
def test_every_made_video_has_its_lineage_and_its_file(made: Path) -> None:
    with contextlib.closing(connect(Catalog.open(made))) as con:
        found = con.sql("select videos.*, c.whole from videos join clips as c using (video_id) where provider = 'procedural'").to_arrow_table().to_pylist()
        filmed = {row["video_id"]: row for row in con.sql("select * from videos where parent_clip_id is null").to_arrow_table().to_pylist()}
    assert len(found) == 8
    for row in found:
        parent, program, parameters = filmed[row["parent_clip_id"]], PROGRAMS[row["condition"]], json.loads(row["parameters"])
        assert row["whole"] and row["dataset"] == "vap" and row["license"] == parent["license"]
        assert (row["split"], row["split_group"]) == (parent["split"], f"synthetic/{parent['split_group']}")
        assert parameters == {"version": program.version, "drawn": program.draw(row["seed"])}
        assert row["caption"] == told(parent["caption"], program.sentence)
        assert row["neutral_caption"] == parent["caption"]
        assert (made / "media" / row["uri"]).stat().st_size == row["bytes"]
        assert row["uri"].startswith(f"procedural/{row['shard']}/{row['condition']}-")
    assert _files(made) == {row["uri"] for row in found}
    assert len({row["content_sha256"] for row in found}) == 8
    assert verify(Catalog.open(made)) == []


@pytest.mark.slow
def test_a_made_clip_has_a_caption_with_and_without_the_condition(made: Path, query: Query) -> None:
    told_of = query(made, "select clip_id, role, text from captions where captioner = 'made' order by all")
    assert len(told_of) == 16
    texts = {(clip, role): text for clip, role, text in told_of}
    for clip, role in texts:
        assert role in ("vap", "neutral")
        assert texts[clip, "vap"].startswith(texts[clip, "neutral"])
        assert texts[clip, "vap"] != texts[clip, "neutral"]
    assert query(made, "select * from captions where clip_id like 'vap/%' and captioner <> 'made'") == []


@pytest.mark.slow
def test_a_made_video_begins_as_its_source_does(made: Path, places: tuple[Path, Path, str], query: Query) -> None:
    for uri, parent in query(made, "select uri, parent_clip_id from videos where condition = 'melt'"):
        ours, theirs = (next(iter(frames(path))).image.astype(int) for path in (made / "media" / uri, places[1] / parent.partition("/")[2]))
        assert np.abs(ours - theirs).mean() < 4, "twice encoded, once as it was"


@pytest.mark.slow
def test_made_clips_pair_with_those_of_other_sources_only(made: Path, query: Query) -> None:
    pairs = query(made, "select condition, score, split, provider, count(*) from pairs group by all order by all")
    assert pairs == [("melt", 100.0, "train", "procedural", 12), ("pan_left", 100.0, "train", "procedural", 12)]


@pytest.mark.slow
def test_made_and_mined_pairs_live_side_by_side(made: Path, tmp_path: Path, query: Query) -> None:
    catalog = Path(shutil.copytree(made, tmp_path / "catalog"))
    before = query(catalog, "select * exclude (run_id, commit, created_at) from pairs order by pair_id")
    synthesize(Request(catalog=str(catalog), providers=(Mined(),)))
    assert query(catalog, "select * exclude (run_id, commit, created_at) from pairs where provider = 'procedural' order by pair_id") == before
    assert query(catalog, "select count(*) from conditions where provider = 'mined' and clip_id like 'vap/%'") == [(0,)]
    assert verify(Catalog.open(catalog)) == []


@pytest.mark.slow
def test_again_nothing_is_rendered(made: Path, places: tuple[Path, Path, str], tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(made, tmp_path / "catalog"))
    times = {path: (catalog / "media" / path).stat().st_mtime_ns for path in _files(catalog)}
    summary = _made(catalog, places)
    assert {path: (catalog / "media" / path).stat().st_mtime_ns for path in _files(catalog)} == times
    assert summary.unchanged == ("procedural",)
    assert str(summary.rendered["procedural"]) == "8 videos = 8 made + 0 failed + 0 to do"
    assert _rows(catalog) == _rows(made)


@pytest.mark.slow
def test_the_preview_shows_how_a_made_video_goes_on(made: Path, tmp_path: Path) -> None:
    output = tmp_path / "melt.png"
    assert cli.run(["conditions", "--catalog", str(made), "--preview", "melt", "--output", str(output)]) == 0
    with Image.open(output) as sheet:
        first, last = (np.asarray(sheet.crop((left, 36, left + 256, 228))).astype(int) for left in (0, 512))
    assert np.abs(first - last).mean() > 1


@pytest.mark.slow
def test_another_seed_makes_other_videos_beside_the_first(made: Path, places: tuple[Path, Path, str], tmp_path: Path, query: Query) -> None:
    catalog = Path(shutil.copytree(made, tmp_path / "catalog"))
    _made(catalog, places, only=("pan_left",), seed=1)
    assert query(catalog, "select condition, count(*), count(distinct content_sha256) from videos where provider = 'procedural' group by 1 order by 1") == [
        ("melt", 4, 4), ("pan_left", 8, 8)
    ]  # fmt: skip
    assert verify(Catalog.open(catalog)) == []


@pytest.mark.slow
def test_files_that_no_row_names_are_removed(made: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(made, tmp_path / "catalog"))
    wanted = _files(catalog)
    (catalog / "media/procedural/vap-0000000001").mkdir()
    for name in ("vap-0000000001/melt-0.mp4", "vap-0000000001/melt-1.77.partial.mp4"):
        (catalog / "media/procedural" / name).write_bytes(b"half")
    opened = Catalog.open(catalog)
    with contextlib.closing(connect(opened)) as con:
        assert len(remove_strays(opened, con, "procedural")) == 2
    assert _files(catalog) == wanted
    assert not (catalog / "media/procedural/vap-0000000001").exists()


@pytest.mark.slow
def test_a_source_that_cannot_be_decoded_is_a_failure_and_the_others_go_on(catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, query: Query) -> None:
    root = Path(shutil.copytree(places[1], tmp_path / "root"))
    for path in sorted(root.glob("*.mp4"))[:5]:
        path.write_bytes(b"no video")
    request = Request(catalog=str(catalog), providers=(Procedural(only=("melt",), each=6),), roots={"synthetic": str(root)}, recipe=places[2])
    rendered = synthesize(request, runner=in_process).rendered["procedural"]
    assert rendered.planned == rendered.made + rendered.failed and rendered.failed >= 4
    told_of = query(catalog, "select video_id, message, permanent from failures where step = 'render'")
    assert len(told_of) == rendered.failed
    assert all(permanent and "shapes-" in message for _, message, permanent in told_of)


def test_a_dataset_that_lies_elsewhere_is_one_sentence(catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CallError, match=r"data/synthetic: no file of dataset 'synthetic' is there.*--root synthetic=PATH"):
        synthesize(Request(catalog=str(catalog), providers=(Procedural(only=("melt",)),), recipe=places[2]), runner=in_process)
    with pytest.raises(CallError, match="Type --recipe NAME"):
        synthesize(Request(catalog=str(catalog), providers=(Procedural(only=("melt",)),)), runner=in_process)
    assert cli.run(["pairs", "--catalog", str(catalog), "--root", "synthetic"]) == 2


def test_a_condition_that_there_is_not_is_refused() -> None:
    with pytest.raises(CallError, match="no condition 'metl'"):
        Procedural(only=("metl",))
    with pytest.raises(CallError, match="each=0"):
        Procedural(each=0)


@pytest.mark.slow
def test_on_ray_it_is_the_same(catalog: Path, made: Path, places: tuple[Path, Path, str], ray_cluster: Iterator[None]) -> None:
    request = Request(catalog=str(catalog), providers=(Procedural(only=("pan_left", "melt")),), roots={"synthetic": str(places[1])}, recipe=places[2])
    synthesize(request)
    assert _rows(catalog) == _rows(made)
    assert _files(catalog) == _files(made)


@pytest.mark.slow
def test_killed_at_ten_states_and_resumed_it_is_the_same(places: tuple[Path, Path, str], tmp_path: Path) -> None:
    script = Path(__file__).with_name("killing_pairs.py")
    done = subprocess.run([sys.executable, str(script), *map(str, places), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert json.loads(done.stdout.splitlines()[-1])["states"] >= 10
