"""The whole build on real video: the OpenVid miniature on Ray; in one process a folder of every codec, and what is broken or badly named."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.summary import Summary
from vapdata.sources.folder import Folder
from vapdata.sources.openvid import OpenVid

pytestmark = pytest.mark.slow

Build = Callable[..., Summary]
Query = Callable[[Path, str], list[tuple]]


@pytest.fixture(scope="module")
def openvid(build_tiny: Build, real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    catalog = tmp_path_factory.mktemp("openvid") / "catalog"
    return catalog, build_tiny(catalog, source=OpenVid(root=str(real_clips / "openvid")))


@pytest.fixture(scope="module")
def folder(build_here: Build, real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """clips/, broken/ and names that version control handles badly, as one tree."""
    root = tmp_path_factory.mktemp("folder") / "root"
    for name in ("clips", "broken"):
        shutil.copytree(real_clips / name, root / name)
    valid = real_clips / "clips" / "br_sponge.mp4"
    odd = root / "odd"
    odd.mkdir()
    for name in (b"two words.mp4", "\N{CLAPPER BOARD} 'quoted\".mp4".encode(), b"new\nline, comma.mp4", b"not\xffutf8.mp4"):
        shutil.copy(valid, os.fsencode(odd) + b"/" + name)
    (odd / "x.mp4").mkdir()
    outside = tmp_path_factory.mktemp("outside") / "elsewhere.mp4"
    shutil.copy(valid, outside)
    (odd / "link.mp4").symlink_to(outside)
    catalog = tmp_path_factory.mktemp("folder-catalog") / "catalog"
    return catalog, build_here(catalog, source=Folder(root=str(root)))


def test_openvid_is_built_and_keeps_its_promises(openvid: tuple[Path, Summary], query: Query) -> None:
    catalog, summary = openvid
    assert summary.videos == {"scanned": 9, "failed": 0, "to_do": 0}
    assert summary.plan.absent == 1
    assert summary.clips["to_do"] == summary.clips["failed"] == 0
    assert verify(Catalog.open(str(catalog))) == []
    assert query(catalog, "select distinct codec from clips") == [("h264",)]
    assert query(catalog, "select count(*) from scores where filter = 'openvid_aesthetic'")[0][0] > 0


def test_no_part_of_an_openvid_video_claims_its_caption(openvid: tuple[Path, Summary], query: Query) -> None:
    catalog, _ = openvid
    assert query(catalog, "select count(*) from captions join clips using (clip_id) where role = 'source' and not whole") == [(0,)]
    assert query(catalog, "select count(*) from captions join clips using (clip_id) where role = 'source_parent' and not whole")[0][0] > 0


def test_an_absent_file_is_a_failure_that_names_it(openvid: tuple[Path, Summary], query: Query) -> None:
    catalog, _ = openvid
    rows = query(catalog, "select video_id, step, error, permanent from failures where step = 'plan'")
    assert rows == [("openvid/missingFile_9_0to120.mp4", "plan", "NoFile", False)]


def test_every_readable_clip_is_in_the_catalog(folder: tuple[Path, Summary], real_clips: Path, query: Query) -> None:
    catalog, _ = folder
    with open(real_clips / "clips" / "clips.csv", newline="") as file:
        named = {f"folder/clips/{row['file']}" for row in csv.DictReader(file)}
    seen = {row[0] for row in query(catalog, "select distinct video_id from clips")}
    assert named <= seen, sorted(named - seen)


def test_broken_files_become_what_the_table_says(folder: tuple[Path, Summary], real_clips: Path, query: Query) -> None:
    catalog, _ = folder
    rows = {row[0]: row[1:] for row in query(catalog, "select video_id, count(*), bool_or(truncated) from clips where video_id like 'folder/broken/%' group by 1")}
    failed = {row[0] for row in query(catalog, "select video_id from failures where step = 'scan' and clip_id is null")}
    for name in ("zero_bytes.mp4", "text_renamed.mp4", "audio_only.mp4", "moov_missing.mp4", "git_lfs_pointer.mp4"):
        assert f"folder/broken/{name}" in failed, name
        assert f"folder/broken/{name}" not in rows, name
    for name in ("truncated.mp4", "corrupted_middle.mp4"):
        assert f"folder/broken/{name}" in failed, name
        assert rows[f"folder/broken/{name}"][1], name
    for name in ("-leading-dash.mp4", "UPPER.MP4", "huge_dimensions.mp4", "garbage_tail.mp4", "webm_named.mp4", "one_frame.mp4"):
        assert rows[f"folder/broken/{name}"][0] >= 1, name
        assert f"folder/broken/{name}" not in failed, name
    assert query(catalog, "select count(*) from latents where clip_id = 'folder/broken/one_frame.mp4'") == [(0,)]
    assert query(catalog, "select count(*) from scores where clip_id = 'folder/broken/one_frame.mp4' and filter = 'brightness'") == [(1,)]


def test_awkward_names_are_clips_with_readable_ids(folder: tuple[Path, Summary], query: Query) -> None:
    catalog, _ = folder
    seen = {row[0] for row in query(catalog, "select video_id from clips where video_id like 'folder/odd/%'")}
    assert seen == {
        "folder/odd/two words.mp4",
        "folder/odd/\N{CLAPPER BOARD} 'quoted\".mp4",
        "folder/odd/new%0Aline, comma.mp4",
        "folder/odd/not%FFutf8.mp4",
    }
    planned = {row[0] for row in query(catalog, "select video_id from failures where step = 'plan'")}
    assert {"folder/odd/x.mp4", "folder/odd/link.mp4"} <= planned


def test_the_folder_catalog_keeps_its_promises_and_adds_up(folder: tuple[Path, Summary]) -> None:
    catalog, summary = folder
    assert verify(Catalog.open(str(catalog))) == []
    clips = summary.clips
    assert clips["clips"] == sum(clips[fate] for fate in ("kept", "too_short", "not_selected", "failed", "to_do"))
    assert clips["to_do"] == clips["failed"] == 0
    assert clips["without_caption"] == clips["kept"]
