"""What `vapdata export` writes is what the other trainers read, and what comes back by the source `vap_data` pairs as before."""

import csv
import dataclasses
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import catalog_samples as samples
import numpy as np
import pytest
from PIL import Image

from catalogs.exports import EXPORTS
from catalogs.exports.chosen import Export
from catalogs.exports.vap import COLUMNS, Vap
from catalogs.exports.webdataset import WebDataset
from catalogs.queries import answer
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.export import Request, Summary, export
from pipelines.pairing import Pairing
from pipelines.prepare import Request as Build
from pipelines.prepare import build, in_process
from pipelines.recipes import recipe
from pipelines.synthesize import Request as Pairs
from pipelines.synthesize import synthesize
from vapdata import cli, video
from vapdata.conditions.mined import Mined
from vapdata.errors import CallError
from vapdata.registry import load
from vapdata.sources.synthetic import Synthetic
from vapdata.sources.vap_data import VapData
from vapdata.step import Source

SCAN_ONLY = dataclasses.replace(recipe("tiny"), encode=())
Pair = tuple[str, str, str]


def _paired(catalog: Path, source: Source) -> Path:
    build(Build(source=source, catalog=str(catalog), recipe=SCAN_ONLY), runner=in_process)
    synthesize(Pairs(catalog=str(catalog), providers=(Mined(),)))
    return catalog


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default synthetic set (root beside it), scanned and paired. Nobody changes it."""
    folder = tmp_path_factory.mktemp("paired")
    return _paired(folder / "catalog", Synthetic(root=str(folder / "root")))


@pytest.fixture
def to(paired: Path, tmp_path: Path):
    """to("vap", **of_request): exports the paired catalog into tmp_path/out."""

    def run(form: str, **changes: object) -> Summary:
        roots = {"synthetic": str(paired.parent / "root")}
        request = {"catalog": str(paired), "format": load(EXPORTS, form, "export")(), "out": str(tmp_path / "out"), "roots": roots, **changes}
        return export(Request(**request))

    return run


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _by_hand(path: Path, rows: list[tuple[dict, dict, list[dict]]], *, paired: bool = True) -> Path:
    """A catalog of these (video, clip, scores), each with a caption."""
    catalog = Catalog.open(path, create=True)
    captions = [{**samples.caption("", f"text of {clip['clip_id']}"), "clip_id": clip["clip_id"]} for _, clip, _ in rows]
    with catalog.lock("pytest"):
        scores = [score for *_, each in rows for score in each]
        catalog.append({"videos": [row for row, *_ in rows], "clips": [clip for _, clip, _ in rows], "captions": captions, "scores": scores})
    if paired:
        synthesize(Pairs(catalog=str(path), providers=(Mined(),)))
    return path


def _label(row: dict, filter: str, label: str) -> dict:
    return {"clip_id": row["video_id"], "shard": row["shard"], "filter": filter, "value": None, "label": label, "by": "dataset"}


def _asked(catalog: Path, sql: str) -> list[dict]:
    return answer(Catalog.open(str(catalog)), sql).to_pylist()


def _pairs(catalog: Path) -> set[Pair]:
    rows = _asked(catalog, "select condition, reference_clip_id as reference, target_clip_id as target from pairs")
    return {(row["condition"], row["reference"], row["target"]) for row in rows}


def _listed(folder: Path) -> set[Pair]:
    """The pairs of a vap_data.csv, in clip ids."""
    rows = _rows(folder / "vap_data.csv")
    ids = {row["video_paths"]: row["clip_id"] for row in rows}
    return {(row["kind"], ids[each], row["clip_id"]) for row in rows for each in json.loads(row["ref_video_paths"])}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_registered_export_is_one() -> None:
    formats = {name: load(EXPORTS, name, "export")() for name in EXPORTS}
    assert all(isinstance(each, Export) and each.name == name for name, each in formats.items())


@pytest.mark.slow
def test_vap_lists_every_pair_under_the_columns_that_the_released_trainer_reads(paired: Path, tmp_path: Path, to) -> None:
    summary = to("vap")
    rows = _rows(tmp_path / "out" / "vap_data.csv")
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    assert _listed(tmp_path / "out") == _pairs(paired) != set()
    paths = [row["video_paths"] for row in rows]
    assert len(set(paths)) == len(paths), "video_paths is the loader's key"
    assert all((tmp_path / "out" / path).is_file() for path in paths)
    assert all(set(json.loads(row["ref_video_paths"])) <= set(paths) - {row["video_paths"]} for row in rows)
    assert {len(json.loads(row["ref_video_paths"])) >= 3 for row in rows if row["split"] != "reference"} == {True}
    captions = {row["clip_id"]: row["text"] for row in _asked(paired, "select clip_id, text from captions where role = 'source'")}
    assert all(row["tar_video_caption"] == captions[row["clip_id"]] for row in rows)
    assert {(row["reference_alignment_score"], row["_valid"]) for row in rows} == {("100", "1")}
    assert summary.wrote["pairs"] == len(_pairs(paired))
    assert summary.placed == {"linked": len(rows), "copied": 0, "encoded": 0}


@pytest.mark.slow
def test_export_then_import_pairs_the_same_files(paired: Path, tmp_path: Path, to) -> None:
    to("vap")
    rows = _rows(tmp_path / "out" / "vap_data.csv")
    ids = {f"vap_data/{row['video_paths']}": row["clip_id"] for row in rows}
    again = _paired(tmp_path / "again", VapData(root=str(tmp_path / "out")))
    assert {(condition, ids[a], ids[b]) for condition, a, b in _pairs(again)} == _pairs(paired)
    assert all(f"/{condition}/" in a and f"/{condition}/" in b for condition, a, b in _pairs(again))
    categories = "select distinct condition, category from pairs order by all"
    assert _asked(again, categories) == _asked(paired, categories)
    assert verify(Catalog.open(str(again))) == []


@pytest.mark.slow
def test_many_members_of_one_dataset_are_paired_the_same_when_they_come_back_under_its_name(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(40)]
    (tmp_path / "root").mkdir()
    for name in names:
        (tmp_path / "root" / f"{name}.mp4").write_bytes(name.encode())
    first = _by_hand(tmp_path / "first", [(row := samples.video(name), samples.clip(name), [_label(row, "synthetic_camera", "pan_left")]) for name in names])
    roots = {"d": str(tmp_path / "root")}
    export(Request(catalog=str(first), format=Vap(), out=str(tmp_path / "out"), roots=roots))
    assert len(_pairs(first)) == 400, "of 39 others, each has 10"
    back = []
    for item in VapData(root=str(tmp_path / "out"), dataset="d").list():
        facts = {"video_id": item.video_id, "split": item.split}
        row = samples.video(item.name, **facts, source="vap_data", uri=item.uri, split_group=item.split_group)
        clip = samples.clip("", **facts, clip_id=item.video_id)
        back.append((row, clip, [_label(row, "vap_camera", str(item.scores["vap_camera"]))]))
    again = _by_hand(tmp_path / "again", back)
    ids = {f"d/{row['video_paths']}": row["clip_id"] for row in _rows(tmp_path / "out" / "vap_data.csv")}
    assert {(condition, ids[a], ids[b]) for condition, a, b in _pairs(again)} == _pairs(first)


def test_a_made_video_comes_from_the_catalog_with_its_parents_group(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    parents = [samples.video(name, split_group=f"tape-{name}") for name in "abcd"]
    made = [samples.video(f"m{name}", dataset="vap", uri=f"p/m{name}.webm", parent_clip_id=f"d/{name}", split_group=f"d/tape-{name}") for name in "abcd"]
    clips = [(row, samples.clip(row["name"]), [_label(row, "synthetic_camera", "pan_left")]) for row in (*parents, *made)]
    _by_hand(catalog, clips, paired=False)
    (catalog / "media" / "p").mkdir(parents=True)
    for name in "abcd":
        (catalog / "media" / "p" / f"m{name}.webm").write_bytes(name.encode())
    opened = Catalog.open(str(catalog))
    pair = {"condition": "été", "category": "style", "split": "train", "score": 80.0, "provider": "procedural"}
    rows = [{**pair, "pair_id": a + b, "reference_clip_id": f"d/m{a}", "target_clip_id": f"d/m{b}"} for a in "abcd" for b in "abcd" if a != b]
    with opened.lock("pytest"):
        opened.append({"pairs": rows})
    export(Request(catalog=str(catalog), format=Vap(), out=str(tmp_path / "out")))
    written = {row["clip_id"]: row for row in _rows(tmp_path / "out" / "vap_data.csv")}
    assert {clip: (row["kind"], row["split_group"]) for clip, row in written.items()} == {f"d/m{name}": ("été", f"tape-{name}") for name in "abcd"}
    files = {clip: (tmp_path / "out" / row["video_paths"]) for clip, row in written.items()}
    assert {(clip, path.suffix, path.read_text()) for clip, path in files.items()} == {(f"d/m{name}", ".webm", name) for name in "abcd"}
    assert all(str(path.relative_to(tmp_path)).isascii() for path in files.values())


def test_a_folder_of_pictures_becomes_a_video(tmp_path: Path) -> None:
    (tmp_path / "root" / "seq").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (64, 48), (40 * number, 90, 200)).save(tmp_path / "root" / "seq" / f"im_{number}.png")
    row = samples.video("seq", uri="seq", folder_fps=4.0)
    catalog = _by_hand(tmp_path / "catalog", [(row, samples.clip("seq", end_s=1.5, frames=6, fps=4.0, width=64, height=48), [])])
    summary = export(Request(catalog=str(catalog), format=WebDataset(), out=str(tmp_path / "out"), roots={"d": str(tmp_path / "root")}))
    assert summary.placed == {"linked": 0, "copied": 0, "encoded": 1}
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        tar.extractall(tmp_path / "untarred", filter="data")
    (file,) = (tmp_path / "untarred").glob("*.mp4")
    frames = list(video.frames(file))
    assert [round(frame.time_s, 3) for frame in frames] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert [abs(int(frame.image[24, 32, 0]) - 40 * number) < 6 for number, frame in enumerate(frames)] == [True] * 6


def test_a_disk_that_cannot_link_gets_copies(tmp_path: Path, to) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs two file systems")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        summary = to("diffsynth", out=f"{folder}/out")
        assert summary.placed == {"linked": 0, "copied": summary.wrote["videos"], "encoded": 0}


def test_what_a_killed_export_left_is_cleared_away(tmp_path: Path, to) -> None:
    (tmp_path / ".out.vapdata-export" / "videos").mkdir(parents=True)
    to("diffsynth")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_benchmark_has_a_row_for_each_test_target(paired: Path, tmp_path: Path, to) -> None:
    catalog = Path(shutil.copytree(paired, tmp_path / "held_out"))
    synthesize(Pairs(catalog=str(catalog), providers=(Mined(),), pairing=Pairing(held_out_conditions=("static",))))
    to("vap", catalog=str(catalog))
    rows = {row["video_paths"]: row for row in _rows(tmp_path / "out" / "vap_data.csv")}
    tests = _rows(tmp_path / "out" / "benchmark.csv")
    assert list(tests[0]) == ["ref_video_path", "ref_video_caption", "tar_video_caption", "video_paths"]
    assert {row["video_paths"] for row in tests} == {path for path, row in rows.items() if row["split"] == "test"}
    assert {rows[row["video_paths"]]["kind"] for row in tests} == {"static"}
    for row in tests:
        assert row["ref_video_path"] in json.loads(rows[row["video_paths"]]["ref_video_paths"])
        assert (row["tar_video_caption"], row["ref_video_caption"]) == (rows[row["video_paths"]]["tar_video_caption"], rows[row["ref_video_path"]]["tar_video_caption"])


@pytest.mark.slow
def test_a_subset_keeps_the_pairs_within_it_and_counts_the_targets_it_starves(paired: Path, tmp_path: Path, to) -> None:
    kept = sorted({target for condition, _, target in _pairs(paired) if condition == "move_up"})
    names = ", ".join(f"'{each}'" for each in kept)
    summary = to("vap", where=f"clip_id in ({names})")
    within = {pair for pair in _pairs(paired) if {pair[1], pair[2]} <= set(kept)}
    counts = {(condition, target): sum(pair[0] == condition and pair[2] == target for pair in within) for condition, _, target in _pairs(paired) if target in kept}
    assert _listed(tmp_path / "out") == {pair for pair in within if counts[pair[0], pair[2]] >= 3}
    assert summary.left_out.get("targets with fewer than 3 references", 0) == sum(count < 3 for count in counts.values())


@pytest.mark.parametrize(("form", "header"), [("diffsynth", ["video", "prompt"]), ("finetrainers", ["file_name", "caption"])])
@pytest.mark.slow
def test_metadata_names_a_file_and_its_caption(form: str, header: list[str], paired: Path, tmp_path: Path, to) -> None:
    to(form, where="whole")
    rows = _rows(tmp_path / "out" / "metadata.csv")
    assert list(rows[0]) == header
    captions = {row["uri"]: row["caption"] for row in _asked(paired, "select uri, videos.caption from videos join clips using (video_id) where whole")}
    root = paired.parent / "root"
    inodes = {os.stat(root / uri).st_ino: caption for uri, caption in captions.items()}
    assert {os.stat(tmp_path / "out" / row[header[0]]).st_ino: row[header[1]] for row in rows} == inodes


def test_copies_are_files_of_their_own(tmp_path: Path, to) -> None:
    summary = to("diffsynth", copy=True, where="whole")
    assert summary.placed["copied"] == summary.wrote["videos"]
    assert {path.stat().st_nlink for path in (tmp_path / "out" / "videos").iterdir()} == {1}


@pytest.mark.slow
def test_webdataset_holds_video_text_and_facts_under_one_key(paired: Path, tmp_path: Path, to) -> None:
    to("webdataset", where="whole")
    first = _tree(tmp_path / "out")
    assert list(first) == ["000000.tar"]
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        held = {entry.name: tar.extractfile(entry).read() for entry in tar.getmembers()}
    keys = list(dict.fromkeys(name.partition(".")[0] for name in held))
    assert list(held) == [f"{key}.{suffix}" for key in keys for suffix in ("mp4", "txt", "json")]
    clips = {row["clip_id"]: row for row in _asked(paired, "select clip_id, uri, videos.caption from videos join clips using (video_id) where whole")}
    for key in keys:
        clip = clips.pop(json.loads(held[f"{key}.json"])["clip_id"])
        assert held[f"{key}.txt"].decode() == clip["caption"]
        assert held[f"{key}.mp4"] == (paired.parent / "root" / clip["uri"]).read_bytes()
    assert clips == {}
    to("webdataset", where="whole", out=str(tmp_path / "second"))
    assert _tree(tmp_path / "second") == first


def test_a_part_of_a_longer_file_is_encoded_with_its_own_frames_and_no_others(paired: Path, tmp_path: Path, to) -> None:
    catalog = Path(shutil.copytree(paired, tmp_path / "captioned"))
    part = _asked(catalog, "select clips.*, uri from clips join videos using (video_id) where not whole and clips.start_s > 0 order by clip_id limit 1")[0]
    opened = Catalog.open(str(catalog))
    row = {"clip_id": part["clip_id"], "shard": part["shard"], "captioner": "vlm", "role": "long", "text": "the second shot", "text_sha256": "0"}
    with opened.lock("pytest"):
        opened.append({"captions": [row]})
    summary = to("finetrainers", catalog=str(catalog), where=f"clip_id = '{part['clip_id']}'")
    assert summary.placed == {"linked": 0, "copied": 0, "encoded": 1}
    (written,) = _rows(tmp_path / "out" / "metadata.csv")
    assert written["caption"] == "the second shot"
    source = paired.parent / "root" / part["uri"]
    wanted = [frame.image for frame in video.frames(source, start_s=part["start_s"], end_s=part["end_s"])]
    got = [frame.image for frame in video.frames(tmp_path / "out" / written["file_name"])]
    assert len(got) == len(wanted) == part["frames"]
    assert all(np.abs(one.astype(float) - other).mean() < 4 for one, other in zip(got, wanted, strict=True))


def test_clips_without_caption_or_file_are_left_out_and_counted(paired: Path, tmp_path: Path, to) -> None:
    root = Path(shutil.copytree(paired.parent / "root", tmp_path / "root"))
    gone = _asked(paired, "select uri from videos join clips using (video_id) where whole order by uri limit 1")[0]["uri"]
    (root / gone).unlink()
    summary = to("diffsynth", roots={"synthetic": str(root)})
    (parts,) = _asked(paired, "select count(*) as n from clips where not whole")
    assert summary.left_out == {"clips without caption": parts["n"], "clips whose file is not there": 1}
    assert summary.clips == summary.wrote["videos"] + parts["n"] + 1


def test_what_holds_something_is_refused_and_left_as_it_was(tmp_path: Path, to, paired: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CallError, match=r"holds mine\.txt.*Type another --out"):
        to("vap")
    assert _tree(tmp_path) == {"out/mine.txt": b"mine"}
    with pytest.raises(CallError, match="is a file"):
        to("vap", out=str(tmp_path / "out" / "mine.txt"))
    with pytest.raises(CallError, match="lies in the catalog"):
        to("vap", out=str(paired / "export"))
    with pytest.raises(CallError, match="disks"):
        to("vap", out="s3://bucket/out")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, to) -> None:
    with pytest.raises(CallError, match="Find some: vapdata pairs"):
        to("vap", where="clip_id in (select clip_id from clips where whole order by clip_id limit 2)")
    with pytest.raises(CallError, match="--root synthetic=PATH"):
        to("vap", roots={"synthetic": str(tmp_path / "elsewhere")})
    with pytest.raises(CallError, match="of 0 clips in pairs.*find pairs: vapdata pairs"):
        to("vap", where="clip_id = 'nobody'")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(paired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--catalog", str(paired), "--format", "vap", "--out", str(tmp_path / "VAP-Data"), "--root", f"synthetic={paired.parent / 'root'}"]
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert f"{len(_pairs(paired))} pairs" in said
    assert f"folder   {tmp_path}" in said
    assert cli.run(command) == 2
    assert cli.run([*command[:4], "vpa", *command[5:]]) == 2
    assert "did you mean 'vap'" in capsys.readouterr().err
