"""Planning: shards, late arrivals, absent files, malformed rows, changed files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from catalogs.store import Catalog
from pipelines.plan import MAX_VIDEOS, Plan, listing_of, plan
from vapdata.clip import BadRow, Video
from vapdata.errors import CallError
from vapdata.sources.bridge import Bridge
from vapdata.step import Source


@dataclass
class Listed:
    """A source whose listing the test decides; reads nothing."""

    videos: dict[str, int | None]
    captions: dict[str, str] = field(default_factory=dict)
    bad: tuple[BadRow, ...] = ()
    name: str = "listed"
    root: str = "nowhere"
    dataset: str = "listed"
    seconds: float | None = None
    folder_fps: float | None = None
    split: str | None = None
    group: str | None = None

    def list(self) -> Iterator[Video | BadRow]:
        yield from self.bad
        for name in self.videos:
            yield Video(
                video_id=f"listed/{name}",
                dataset="listed",
                name=name,
                uri=name,
                split_group=self.group or name,
                split=self.split,
                caption=self.captions.get(name),
                folder_fps=self.folder_fps,
                seconds=self.seconds,
            )

    def present(self) -> Mapping[str, int]:
        return {name: size for name, size in self.videos.items() if size is not None}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        return {}


def planned(path: Path, source: Source, limit: int | None = None, tensor_bytes: int = 1) -> Plan:
    catalog = Catalog.open(str(path), create=True)
    with catalog.lock("test"):
        return plan(catalog, source, listing_of(source), run_id="run", limit=limit, tensor_bytes=tensor_bytes)


def rows(path: Path, table: str = "videos") -> list[dict]:
    return Catalog.open(str(path)).read(table).to_pylist()


def shards(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows(path):
        found.setdefault(row["shard"], []).append(row["name"])
    return found


def test_a_large_dataset_has_shards_of_at_most_64_videos_in_sorted_order(tmp_path: Path) -> None:
    names = [f"{number:05d}" for number in range(4096)]
    planned(tmp_path, Listed(dict.fromkeys(reversed(names), 1)))
    found = shards(tmp_path)
    assert max(len(videos) for videos in found.values()) == MAX_VIDEOS
    assert sorted(found["listed-000000"]) == names[:MAX_VIDEOS]
    assert len(found) == 4096 // MAX_VIDEOS


def test_a_small_dataset_is_spread_so_that_stages_overlap(tmp_path: Path) -> None:
    planned(tmp_path, Listed(dict.fromkeys("abcdefgh", 1)))
    assert {len(videos) for videos in shards(tmp_path).values()} == {1}


@pytest.mark.slow
def test_long_videos_and_large_tensors_end_a_shard(tmp_path: Path) -> None:
    names = [f"{number:05d}" for number in range(4096)]
    planned(tmp_path / "long", Listed(dict.fromkeys(names, 1), seconds=300.0))
    assert max(len(videos) for videos in shards(tmp_path / "long").values()) == 4
    planned(tmp_path / "large", Listed(dict.fromkeys(names, 1)), tensor_bytes=2**26)
    assert max(len(videos) for videos in shards(tmp_path / "large").values()) == 4


def test_what_arrives_later_becomes_shards_of_its_own(tmp_path: Path) -> None:
    first = planned(tmp_path, Listed({"b": 1, "c": 1, "z": None}))
    assert (first.listed, first.present, first.absent, first.new_videos) == (3, 2, 1, 2)
    before = shards(tmp_path)
    second = planned(tmp_path, Listed({"a": 1, "b": 1, "c": 1, "z": 1}))
    assert (second.absent, second.new_videos) == (0, 2)
    after = shards(tmp_path)
    assert before.items() <= after.items()
    assert not set(before) & {row["shard"] for row in rows(tmp_path) if row["name"] in "az"}


def test_absent_files_and_malformed_rows_are_failures_once(tmp_path: Path) -> None:
    source = Listed({"a": 1, "b": None}, bad=(BadRow(where="table.csv:7", message="four fields, wanted nine"),))
    for _ in range(2):
        found = planned(tmp_path, source)
        assert (found.absent, found.malformed) == (1, 1)
    failures = {row["error"]: row for row in rows(tmp_path, "failures")}
    assert set(failures) == {"NoFile", "MalformedRow"}
    assert len(rows(tmp_path, "failures")) == 2
    assert failures["MalformedRow"]["message"] == "table.csv:7: four fields, wanted nine"
    assert failures["MalformedRow"]["permanent"]
    assert not failures["NoFile"]["permanent"]


def test_a_limit_takes_the_first_of_the_sorted_list(tmp_path: Path) -> None:
    found = planned(tmp_path, Listed(dict.fromkeys("dcba", 1)), limit=2)
    assert found.first == ("listed/a", "listed/b")
    assert sorted(row["name"] for row in rows(tmp_path)) == ["a", "b"]


def test_duplicate_rows_are_one_video_and_the_first_counts(tmp_path: Path) -> None:
    class Twice(Listed):
        def list(self) -> Iterator[Video | BadRow]:
            for caption in ("first", "second"):
                yield Video(video_id="listed/a", dataset="listed", name="a", uri="a", split_group="a", caption=caption)

    planned(tmp_path, Twice({"a": 1}))
    assert [row["caption"] for row in rows(tmp_path)] == ["first"]


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="source listed names no video"):
        planned(tmp_path, Listed({}))


def test_a_file_that_was_replaced_gets_its_new_size(tmp_path: Path) -> None:
    planned(tmp_path, Listed({"a": 1}))
    planned(tmp_path, Listed({"a": 2}))
    assert [row["bytes"] for row in rows(tmp_path)] == [2]


def test_another_root_under_the_same_name_is_refused(tmp_path: Path) -> None:
    planned(tmp_path, Listed({"a": 1}))
    with pytest.raises(CallError, match="--name NAME"):
        planned(tmp_path, Listed({"b": 1}))


def test_the_rate_of_frame_folders_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    planned(tmp_path, Listed({"a": 1}, folder_fps=5.0))
    planned(tmp_path, Listed({"a": 1, "b": 1}, folder_fps=5.0))
    assert [row["folder_fps"] for row in rows(tmp_path)] == [5.0, 5.0]
    with pytest.raises(CallError, match="shown at 10 fps here, this catalog was built with 5"):
        planned(tmp_path, Listed({"a": 1}, folder_fps=10.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"split": "validation"}, r"listed/a is in validation here \(group a\), this catalog was built with train"), ({"group": "session"}, r"\(group session\)")],
)
@pytest.mark.slow
def test_a_video_keeps_its_split_and_another_one_is_refused(tmp_path: Path, change: dict[str, str], said: str) -> None:
    planned(tmp_path, Listed({"a": 1}, split="train"))
    planned(tmp_path, Listed({"a": 1, "b": 1}, split="train"))
    with pytest.raises(CallError, match=said):
        planned(tmp_path, Listed({"a": 1, "c": 1}, **{"split": "train", **change}))
    assert sorted((row["name"], row["split"]) for row in rows(tmp_path)) == [("a", "train"), ("b", "train")]


def test_another_list_of_splits_is_refused_for_what_is_planned(tmp_path: Path) -> None:
    for place in range(5):
        folder = tmp_path / "root" / f"kitchen{place}" / "push" / f"2022-01-0{place + 1}_00-00-00" / "raw" / "traj_group0" / "traj0" / "images0"
        folder.mkdir(parents=True)
        (folder / "im_0.jpg").write_bytes(b"x")
    (tmp_path / "list.txt").write_text(json.dumps([f"push/{place}" for place in range(5)]))
    (tmp_path / "other.txt").write_text(json.dumps([f"push/{place}" for place in reversed(range(5))]))
    listed, other, unlisted = (Bridge(root=str(tmp_path / "root"), seer_list=path and str(tmp_path / path)) for path in ("list.txt", "other.txt", None))
    planned(tmp_path / "c", listed)
    assert sorted(row["split"] for row in rows(tmp_path / "c")) == ["train"] * 4 + ["validation"]
    planned(tmp_path / "c", listed)
    for changed in (other, unlisted):
        with pytest.raises(CallError, match="set back what decides it"):
            planned(tmp_path / "c", changed)


def test_a_changed_caption_supersedes_the_old(tmp_path: Path) -> None:
    planned(tmp_path, Listed({"a": 1}, captions={"a": "old"}))
    planned(tmp_path, Listed({"a": 1}, captions={"a": "new"}))
    assert [row["caption"] for row in rows(tmp_path)] == ["new"]
