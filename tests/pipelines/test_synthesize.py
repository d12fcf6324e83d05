"""`vapdata pairs` over real catalogs: what was planted is paired, and nothing else; the same again, whatever is done in between."""

import dataclasses
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from catalogs.conditions import conditions
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.pairing import Pairing
from pipelines.prepare import Request as Build
from pipelines.prepare import build, in_process
from pipelines.recipes import recipe
from pipelines.synthesize import Request, Summary, synthesize
from vapdata import cli
from vapdata.conditions.mined import Mined
from vapdata.errors import CallError
from vapdata.sources.ssv2 import SSv2
from vapdata.sources.synthetic import Synthetic
from vapdata.step import Source

SCAN_ONLY = dataclasses.replace(recipe("tiny"), encode=())
Query = Callable[[Path, str], list[tuple]]


def _built(catalog: Path, source: Source) -> Path:
    build(Build(source=source, catalog=str(catalog), recipe=SCAN_ONLY), runner=in_process)
    return catalog


def _pairs(catalog: Path, **changes: object) -> Summary:
    return synthesize(Request(**{"catalog": str(catalog), "providers": (Mined(),), **changes}))


def _rows(catalog: Path, table: str) -> list[tuple]:
    """What a plain glob sees, without lineage."""
    rows = duckdb.sql(f"select * exclude (run_id, commit, created_at) from '{catalog}/{table}/*.parquet'").fetchall()
    return sorted(rows, key=repr)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default synthetic set, scanned. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("scanned")
    return _built(folder / "catalog", Synthetic(root=str(folder / "root")))


@pytest.fixture
def catalog(scanned: Path, tmp_path: Path) -> Path:
    """A copy to pair in."""
    return Path(shutil.copytree(scanned, tmp_path / "catalog"))


def _truth(scanned: Path) -> dict[str, dict]:
    lines = (scanned.parent / "root" / "truth.jsonl").read_text().splitlines()
    return {f"synthetic/{row['file']}": row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_planted_moves_are_paired_as_they_were_drawn(scanned: Path, catalog: Path, query: Query) -> None:
    summary = _pairs(catalog)
    drawn: dict[str, set[str]] = defaultdict(set)
    for clip, row in _truth(scanned).items():
        if len(row["shots"]) == 1:
            drawn[row["shots"][0]["camera"]].add(clip)
            if row["shots"][0]["direction"]:
                drawn[f"move_{row['shots'][0]['direction']}"].add(clip)
    shown: dict[str, set[str]] = defaultdict(set)
    for clip, condition in query(catalog, "select clip_id, condition from conditions"):
        shown[condition].add(clip)
    assert shown == drawn
    wanted = {(name, a, b) for name, clips in drawn.items() if len(clips) >= 4 for a in clips for b in clips if a != b}
    assert set(query(catalog, "select condition, reference_clip_id, target_clip_id from pairs")) == wanted
    assert summary.paired[0].pairs == len(wanted)
    assert verify(Catalog.open(catalog)) == []


def test_pairing_again_changes_no_file_and_says_so(catalog: Path) -> None:
    _pairs(catalog)
    files = {path: path.stat().st_mtime_ns for table in ("conditions", "pairs") for path in (catalog / table).iterdir()}
    summary = _pairs(catalog)
    assert summary.unchanged == ("mined",)
    assert {path: path.stat().st_mtime_ns for table in ("conditions", "pairs") for path in (catalog / table).iterdir()} == files


@pytest.mark.slow
def test_other_settings_replace_all_rows_and_going_back_restores_them(catalog: Path) -> None:
    _pairs(catalog)
    first = {table: _rows(catalog, table) for table in ("conditions", "pairs")}
    _pairs(catalog, pairing=Pairing(least_members=5))
    assert {row[1] for row in _rows(catalog, "pairs")} == {"move_up"}
    assert len(_rows(catalog, "conditions")) == len(first["conditions"])
    _pairs(catalog)
    assert {table: _rows(catalog, table) for table in ("conditions", "pairs")} == first
    assert verify(Catalog.open(catalog)) == []


@pytest.mark.slow
def test_where_says_who_may_be_a_member(catalog: Path, query: Query) -> None:
    _pairs(catalog, where="synthetic_motion > 1.5")
    (outside,) = query(catalog, "select count(*) from conditions where clip_id not in (select clip_id from clips_wide where synthetic_motion > 1.5)")[0]
    assert outside == 0
    with pytest.raises(CallError, match="motoin"):
        _pairs(catalog, where="motoin > 1")


@pytest.mark.slow
def test_a_build_afterwards_keeps_the_pairs_and_the_status(scanned: Path, catalog: Path) -> None:
    _pairs(catalog)
    before = _rows(catalog, "pairs")
    _built(catalog, Synthetic(root=str(scanned.parent / "root")))
    assert _rows(catalog, "pairs") == before
    assert verify(Catalog.open(catalog)) == []


def test_clips_of_a_cut_video_are_no_members(catalog: Path, query: Query) -> None:
    _pairs(catalog)
    parts = query(catalog, "select clip_id from clips where not whole")
    assert len(parts) == 8
    assert query(catalog, "select clip_id from conditions where clip_id in (select clip_id from clips where not whole)") == []


@pytest.mark.slow
def test_relabelled_real_clips_pair_exactly_by_template(real_clips: Path, tmp_path: Path, query: Query) -> None:
    """Twelve filmed clips, four of each of three templates."""
    templates = ("Pushing [something] from left to right", "Holding [something]", "Dropping [something] into [something]")
    names = "br_dishwasher br_beet br_allenkey br_banana_plate br_sponge br_laundry br_banana_pot br_cabinet mdn_flower vbench_walking ta_2 ta_4".split()
    root = tmp_path / "ssv2"
    (root / "labels").mkdir(parents=True)
    (root / "20bn-something-something-v2").mkdir()
    records = []
    for number, name in enumerate(names):
        source = next(path for path in sorted((real_clips / "clips").iterdir()) if path.stem == name)
        shutil.copy(source, root / "20bn-something-something-v2" / f"{number + 1}.webm")
        template = templates[number % 3]
        records.append({"id": str(number + 1), "label": template.replace("[something]", "cup").lower(), "template": template, "placeholders": ["cup"]})
    (root / "labels" / "train.json").write_text(json.dumps(records))
    catalog = _built(tmp_path / "catalog", SSv2(root=str(root)))
    _pairs(catalog)
    wanted = {
        (f"ssv2/{one['id']}", f"ssv2/{other['id']}") for one in records for other in records if one is not other and one["template"] == other["template"]
    }
    assert set(query(catalog, "select reference_clip_id, target_clip_id from pairs")) == wanted
    assert len(wanted) == 36
    assert {each.condition for each in conditions(Catalog.open(catalog))} == {
        "pushing_something_from_left_to_right", "holding_something", "dropping_something_into_something"
    }  # fmt: skip
    assert verify(Catalog.open(catalog)) == []


def test_the_command_says_what_it_found_and_what_to_type_next(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["pairs", "--catalog", str(catalog)]) == 0
    shown = capsys.readouterr().out
    assert "mined       34 members = 29 in pairs + 5 refused; 92 pairs of 7 conditions (motion 2, camera 5)" in shown
    assert "5 few_members: the condition has fewer than pairs.least_members" in shown
    assert "procedural  left out: data/synthetic: no file of dataset 'synthetic' is there" in shown
    assert f"vapdata conditions --catalog {catalog}" in shown
    assert cli.run(["conditions", "--catalog", str(catalog)]) == 0
    shown = capsys.readouterr().out
    assert "camera: 5 conditions, 20 members, 60 pairs" in shown
    assert "3 few_members" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "mind"], "did you mean 'mined'"),
        (["--set", "pairs.seeed=1"], "did you mean 'seed'"),
        (["--set", "pairs.least_score=500"], "wanted 0 to 100"),
        (["--catalog", "nowhere"], "no catalog at nowhere"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], words: str, catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pairs", "--catalog", str(catalog), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_catalog_without_conditions_says_how_to_find_some(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["conditions", "--catalog", str(catalog)]) == 0
    assert "vapdata pairs --catalog" in capsys.readouterr().out


def test_the_preview_shows_every_member(catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    _pairs(catalog)
    output = tmp_path / "sheet.png"
    assert cli.run(["conditions", "--catalog", str(catalog), "--preview", "pan_left", "--output", str(output)]) == 0
    assert "4 members of pan_left" in capsys.readouterr().out
    with Image.open(output) as sheet:
        assert sheet.size[0] == 4 * 256
        middles = [sheet.getpixel((256 * place + 40, 100)) for place in range(4)]
    assert len(set(middles)) == 4, "four grounds of four colours"
    assert cli.run(["conditions", "--catalog", str(catalog), "--preview", "melt"]) == 2
    assert "no clip of" in capsys.readouterr().err
    assert cli.run(["conditions", "--catalog", str(catalog), "--preview", "pan_left", "--output", str(tmp_path / "no" / "x.png")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "sheet.png"]


@pytest.mark.slow
def test_a_provider_that_finds_nothing_any_more_leaves_nothing(catalog: Path) -> None:
    _pairs(catalog)
    _pairs(catalog, where="false")
    assert _rows(catalog, "pairs") == _rows(catalog, "conditions") == []
    assert Counter(finding.check for finding in verify(Catalog.open(catalog))) == {}
