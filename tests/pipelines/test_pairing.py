"""Who is paired with whom: the law, its numbers, and that nothing but seeds and ids decides."""

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from catalogs.queries import connect
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.pairing import Paired, Pairing, condition_rows, members_table, pair, pair_rows
from vapdata.errors import CallError

Row = dict[str, Any]


def _videos(count: int, **changes: Any) -> list[Row]:
    """Videos d/00, d/01 ..., each its own split group. A change is a value for all, or a function of the number."""
    rows = []
    for number in range(count):
        own = {name: value(number) if callable(value) else value for name, value in changes.items()}
        row = {"video_id": f"d/{number:02d}", "dataset": "d", "source": "folder", "name": f"{number:02d}", "uri": f"{number:02d}.mp4", "shard": "d-000000"}
        rows.append({**row, "split": "train", "split_group": f"g{number}", **own})
    return rows


def _clips(videos: Sequence[Row]) -> list[Row]:
    facts = {"start_s": 0.0, "end_s": 2.0, "frames": 16, "fps": 8.0, "width": 160, "height": 96, "codec": "h264", "whole": True, "truncated": False}
    return [{"clip_id": row["video_id"], "video_id": row["video_id"], "source": row["dataset"], "shard": row["shard"], "split": row["split"], **facts} for row in videos]


def _catalog(folder: Path, videos: Sequence[Row]) -> Catalog:
    catalog = Catalog.open(folder / "catalog", create=True)
    with catalog.lock("test"):
        catalog.append({"videos": videos, "clips": _clips(videos)})
    return catalog


def _members(shown: Mapping[str, Sequence[int]], score: float = 90.0) -> list[Row]:
    return [{"clip_id": f"d/{number:02d}", "condition": name, "category": "motion", "score": score} for name, numbers in shown.items() for number in numbers]


def _paired(catalog: Catalog, members: Sequence[Row], provider: str = "mined", **settings: Any) -> tuple[Paired, list[Row], list[Row]]:
    """The result, the rows of pairs (kept in the catalog), and those of conditions."""
    with contextlib.closing(connect(catalog)) as con, catalog.lock("test"):
        paired = pair(catalog, con, provider, members_table(list(members)), Pairing(**settings))
        rows = {"conditions": list(condition_rows(con, paired)), "pairs": list(pair_rows(con, paired))}
        catalog.replace(rows, f"provider <> '{provider}'")
    conditions, pairs = ([row for table in rows[name] for row in table.to_pylist()] for name in ("conditions", "pairs"))
    return paired, sorted(pairs, key=lambda row: row["pair_id"]), conditions


def _references(pairs: Sequence[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in pairs:
        found[row["target_clip_id"]].add(row["reference_clip_id"])
    return found


def _refused(conditions: Sequence[Row]) -> dict[str, str]:
    return {row["clip_id"]: row["refused"] for row in conditions if row["refused"]}


def test_four_members_refer_to_one_another(tmp_path: Path) -> None:
    paired, pairs, conditions = _paired(_catalog(tmp_path, _videos(4)), _members({"push": range(4)}))
    everyone = {f"d/{number:02d}" for number in range(4)}
    assert _references(pairs) == {clip: everyone - {clip} for clip in everyone}
    assert (paired.members, paired.targets, paired.pairs, paired.refused) == (4, 4, 12, {})
    assert {row["generation"] for row in (*pairs, *conditions)} == {paired.generation}
    assert {(row["score"], row["split"], row["category"]) for row in pairs} == {(90.0, "train", "motion")}


def test_a_target_has_at_most_ten_references_and_all_refer_about_equally_often(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(60))
    _, pairs, _ = _paired(catalog, _members({"push": range(60)}))
    assert {len(references) for references in _references(pairs).values()} == {10}
    assert set(Counter(row["reference_clip_id"] for row in pairs).values()) == {10}
    assert verify(catalog, ["pairs"]) == []


def test_members_of_one_split_group_are_never_paired(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(12, split_group=lambda number: f"g{number // 3}"))
    _, pairs, _ = _paired(catalog, _members({"push": range(12)}))
    groups = {f"d/{number:02d}": number // 3 for number in range(12)}
    assert all(groups[row["reference_clip_id"]] != groups[row["target_clip_id"]] for row in pairs)
    assert {len(references) for references in _references(pairs).values()} == {9}


def test_one_large_content_and_two_small_ones_still_give_three_references(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(12, split_group=lambda number: f"g{min(number, 2)}"))  # 1, 1 and 10 clips
    _, pairs, conditions = _paired(catalog, _members({"push": range(12)}))
    references = _references(pairs)
    assert set(references) == {"d/00", "d/01"}
    assert min(map(len, references.values())) >= 3
    assert _refused(conditions) == {f"d/{number:02d}": "few_references" for number in range(2, 12)}


def test_made_clips_of_one_parent_are_never_paired_nor_with_their_parent(tmp_path: Path) -> None:
    filmed = _videos(6)
    made = [
        {**row, "video_id": f"vap/{row['name']}-{turn}", "dataset": "vap", "split_group": f"made-{row['name']}-{turn}", "parent_clip_id": row["video_id"]}
        for row in filmed
        for turn in range(2)
    ]
    again = [{**made[0], "video_id": "vap/again", "split_group": "again", "parent_clip_id": made[0]["video_id"]}]
    catalog = _catalog(tmp_path, [*filmed, *made, *again])
    everyone = [{"clip_id": row["video_id"], "condition": "melt", "category": "concept", "score": 100.0} for row in (*filmed, *made, *again)]
    _, pairs, _ = _paired(catalog, everyone)
    roots = {row["video_id"]: row["video_id"] for row in filmed} | {row["video_id"]: row["parent_clip_id"] for row in made} | {"vap/again": "d/00"}
    assert pairs and all(roots[row["reference_clip_id"]] != roots[row["target_clip_id"]] for row in pairs)
    assert set(_references(pairs)) == set(roots)
    assert verify(catalog, ["pairs"]) == []


def test_made_videos_with_equal_frames_are_one_content(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(5, content_sha256=lambda number: f"{max(number, 1)}"))  # 0 and 1 are equal
    _, pairs, conditions = _paired(catalog, _members({"push": range(5)}))
    assert _references(pairs)["d/00"] == {"d/02", "d/03", "d/04"} == _references(pairs)["d/01"]
    assert _refused(conditions) == {}


@pytest.mark.slow
def test_listed_near_duplicates_are_one_content(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(6))
    both = {"d/00", "d/03"}
    _, pairs, _ = _paired(catalog, _members({"push": range(6)}))
    assert any({row["reference_clip_id"], row["target_clip_id"]} == both for row in pairs), "nothing lists them yet"
    with catalog.lock("test"):
        catalog.append({"duplicates": [{"clip_id": clip, "method": "near", "cluster": "1", "keeper": "d/00", "distance": 0.1, "generation": "1"} for clip in sorted(both)]})
    assert ["copies of one another" in finding.what for finding in verify(catalog, ["pairs"])] == [True], "pairs from before are told"
    _, pairs, _ = _paired(catalog, _members({"push": range(6)}))
    assert pairs and not any({row["reference_clip_id"], row["target_clip_id"]} == both for row in pairs)
    assert all(len(references) == 4 for clip, references in _references(pairs).items() if clip in both)
    assert verify(catalog, ["pairs"]) == []


def test_what_is_too_weak_too_few_or_too_much_is_refused_and_says_why(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(20, split_group=lambda number: f"g{max(number, 4)}"))  # 0 to 4 are one group
    members = [*_members({"push": range(10)}), *_members({"pull": range(10, 13)}), *_members({"lift": range(13, 20)}, score=49.0)]
    paired, _, conditions = _paired(catalog, members, most_of_one_content=2, most_members=6)
    reasons = Counter(row["refused"] for row in conditions)
    assert reasons == {None: 6, "over_quota": 4, "few_members": 3, "low_score": 7}
    assert paired.members == paired.targets + sum(paired.refused.values()) == 20
    assert sum(row["condition"] == "push" and row["refused"] is None and row["clip_id"] < "d/05" for row in conditions) <= 2


def test_held_out_subjects_refer_to_training_and_training_never_to_them(tmp_path: Path) -> None:
    splits = {0: "validation", 1: "test", 2: "test"}
    catalog = _catalog(tmp_path, _videos(9, split=lambda number: splits.get(number, "train")))
    _, pairs, _ = _paired(catalog, _members({"push": range(9)}))
    held = {f"d/{number:02d}": split for number, split in splits.items()}
    assert {row["split"] for row in pairs} == {"train", "validation", "test"}
    for row in pairs:
        assert row["split"] == held.get(row["target_clip_id"], "train")
        assert held.get(row["reference_clip_id"], "train") in ("train", row["split"])
    assert verify(catalog, ["pairs"]) == []


def test_a_training_copy_of_a_held_out_video_is_refused(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(8, split=lambda number: "test" if number == 0 else "train", content_sha256=lambda number: f"{max(number, 1)}"))
    _, pairs, conditions = _paired(catalog, _members({"push": range(8)}))
    assert _refused(conditions) == {"d/01": "copy_is_held_out"}
    assert "d/01" not in {row[side] for row in pairs for side in ("reference_clip_id", "target_clip_id")}
    assert verify(catalog, ["pairs"]) == []


def test_a_held_out_condition_is_for_testing_and_its_clips_teach_nothing_else(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(12))
    shown = {"push": range(6), "pull": [0, *range(6, 11)]}
    paired, pairs, conditions = _paired(catalog, _members(shown), held_out_conditions=("push",))
    assert paired.held_out == ("push",)
    assert {(row["condition"], row["split"]) for row in pairs} == {("push", "test"), ("pull", "train")}
    assert [(row["clip_id"], row["condition"]) for row in conditions if row["refused"] == "shows_held_out"] == [("d/00", "pull")]
    assert verify(catalog, ["pairs"]) == []


@pytest.mark.slow
def test_conditions_are_held_out_by_their_name_once_a_category_has_ten(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(80))
    few = {f"c{number}": range(4 * number, 4 * number + 4) for number in range(9)}
    many = {**few, **{f"c{number}": range(4 * number, 4 * number + 4) for number in range(9, 20)}}
    assert _paired(catalog, _members(few), held_out=0.5)[0].held_out == ()
    held = _paired(catalog, _members(many), held_out=0.5)[0].held_out
    assert 4 <= len(held) <= 16
    assert set(_paired(catalog, _members({name: many[name] for name in list(many)[:12]}), held_out=0.5)[0].held_out) == {name for name in held if name in list(many)[:12]}
    assert _paired(catalog, _members(many), held_out=0.0)[0].held_out == ()


@pytest.mark.slow
def test_another_providers_training_pairs_keep_a_condition_from_being_held_out(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(80))
    shown = {f"c{number}": range(4 * number, 4 * number + 4) for number in range(10)}
    first = _paired(catalog, _members(shown), held_out=0.5)[0].held_out[0]
    _paired(catalog, _members({first: range(40, 44)}), provider="other")
    assert first not in _paired(catalog, _members(shown), held_out=0.5)[0].held_out
    assert verify(catalog, ["pairs"]) == []


@pytest.mark.slow
def test_the_order_of_members_changes_nothing(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(40, split=lambda number: "test" if number % 9 == 0 else "train"))
    members = _members({"push": range(30), "pull": range(10, 40), "lift": range(5)})
    wanted = _paired(catalog, members)
    for seed in range(3):
        random.Random(seed).shuffle(members)
        got = _paired(catalog, members)
        assert got[0] == wanted[0]
        assert got[1] == wanted[1]


def test_another_seed_gives_other_pairs_and_another_generation(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(40))
    members = _members({"push": range(40)})
    (one, first, _), (other, second, _) = _paired(catalog, members), _paired(catalog, members, seed=1)
    assert one.generation != other.generation
    assert _references(first) != _references(second)


@pytest.mark.slow
def test_a_member_more_is_another_generation(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, _videos(12))
    generations = {_paired(catalog, _members({"push": range(count)}))[0].generation for count in (10, 11, 12, 11)}
    assert len(generations) == 3


def test_no_members_give_no_pairs(tmp_path: Path) -> None:
    paired, pairs, conditions = _paired(_catalog(tmp_path, _videos(4)), [])
    assert (paired.members, pairs, conditions) == (0, [], [])


@pytest.mark.parametrize("wrong", [{"least_score": 101.0}, {"held_out": 2.0}, {"least_members": 0}, {"most_members": 0}])
def test_settings_that_cannot_be_are_refused(wrong: Mapping[str, float]) -> None:
    with pytest.raises(CallError, match="--set pairs"):
        Pairing(**wrong)
