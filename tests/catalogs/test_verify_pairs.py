"""Lawful pairs have no findings; each rule, broken on purpose, is the one that is told, with the pair and what to type."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pyarrow as pa
import pytest
from catalog_samples import clip, video

from catalogs.store import Catalog
from catalogs.verify import verify
from catalogs.verify_pairs import RULES

Rows = dict[str, list[dict[str, Any]]]
NAMES = ("a", "b", "c", "e", "f")


def _pair(reference: str, target: str, **changes: Any) -> dict[str, Any]:
    row = {"pair_id": f"{reference}->{target}", "condition": "push", "category": "motion", "reference_clip_id": f"d/{reference}", "target_clip_id": f"d/{target}"}
    return {**row, "split": "train", "score": 90.0, "provider": "mined", "generation": "1", **changes}


def _member(name: str, **changes: Any) -> dict[str, Any]:
    return {"clip_id": f"d/{name}", "condition": "push", "category": "motion", "provider": "mined", "score": 90.0, "generation": "1", **changes}


def _lawful() -> Rows:
    """Five clips of five groups, each the target of the four others; two clips that no pair names."""
    return {
        "videos": [video(name) for name in (*NAMES, "x", "y")],
        "clips": [clip(name) for name in (*NAMES, "x", "y")],
        "conditions": [_member(name) for name in NAMES],
        "pairs": [_pair(reference, target) for reference, target in permutations(NAMES, 2)],
    }


def _told(catalog: Catalog, rows: Rows) -> list[str]:
    catalog.append({name: rows[name] for name in ("videos", "clips", "duplicates") if rows.get(name)})
    catalog.replace({name: [pa.Table.from_pylist(rows[name])] for name in ("conditions", "pairs")}, "false")
    found = verify(catalog, ["pairs"])
    assert all(finding.check == "pairs" and f"vapdata pairs --catalog {catalog.shown}" in finding.remedy for finding in found)
    return [f"{finding.where}: {finding.what}: {finding.got}" for finding in found]


def _change(rows: Rows, table: str, which: Callable[[dict[str, Any]], bool], **changes: Any) -> None:
    for row in rows[table]:
        if which(row):
            row.update(changes)


def _is(**wanted: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda row: all(row[name] == value for name, value in wanted.items())


def _itself(rows: Rows) -> None:
    _change(rows, "pairs", _is(pair_id="a->b"), reference_clip_id="d/b")


def _video(rows: Rows) -> None:
    _change(rows, "clips", _is(clip_id="d/a"), video_id="d/b")


def _source(rows: Rows) -> None:
    _change(rows, "videos", lambda row: row["video_id"] in ("d/a", "d/b"), parent_clip_id="d/x")


def _group(rows: Rows) -> None:
    _change(rows, "videos", _is(video_id="d/a"), split_group="b")


def _near(rows: Rows) -> None:
    """As `vapdata dedup` writes it."""
    rows["duplicates"] = [{"clip_id": f"d/{name}", "method": "near", "cluster": "1", "keeper": "d/a", "distance": 0.1, "generation": "1"} for name in "ab"]


def _copies(rows: Rows) -> None:
    _change(rows, "videos", lambda row: row["video_id"] in ("d/a", "d/b"), content_sha256="0")


def _grandchild(rows: Rows) -> None:
    """b was made from y, which was made from x, and so was a."""
    _change(rows, "videos", _is(video_id="d/a"), parent_clip_id="d/x")
    _change(rows, "videos", _is(video_id="d/b"), parent_clip_id="d/y")
    _change(rows, "videos", _is(video_id="d/y"), parent_clip_id="d/x")


def _condition(rows: Rows) -> None:
    rows["conditions"] = [row for row in rows["conditions"] if row["clip_id"] != "d/a"]


def _category(rows: Rows) -> None:
    _change(rows, "conditions", _is(clip_id="d/a"), category="style")


def _unknown_category(rows: Rows) -> None:
    for table in ("pairs", "conditions"):
        _change(rows, table, _is(condition="push"), category="mood")


def _score(rows: Rows) -> None:
    _change(rows, "conditions", _is(clip_id="d/a"), score=80.0)


def _few(rows: Rows) -> None:
    rows["pairs"] = [row for row in rows["pairs"] if row["pair_id"] not in ("b->a", "c->a")]


def _many(rows: Rows) -> None:
    more = [f"m{number}" for number in range(7)]
    rows["videos"] += [video(name) for name in more]
    rows["clips"] += [clip(name) for name in more]
    rows["conditions"] += [_member(name) for name in more]
    rows["pairs"] += [_pair(name, "a") for name in more]


def _twice(rows: Rows) -> None:
    rows["pairs"].append(_pair("a", "b", pair_id="again"))


def _training(rows: Rows) -> None:
    for table, name in (("videos", "video_id"), ("clips", "clip_id")):
        _change(rows, table, lambda row, name=name: row[name] == "d/a", split="test")
    rows["pairs"] = [row for row in rows["pairs"] if row["target_clip_id"] != "d/a"]


def _split(rows: Rows) -> None:
    """b of validation refers to a, which is of test."""
    for table, name in (("videos", "video_id"), ("clips", "clip_id")):
        _change(rows, table, lambda row, name=name: row[name] == "d/a", split="test")
        _change(rows, table, lambda row, name=name: row[name] == "d/b", split="validation")
    rows["pairs"] = [_pair(reference, "b", split="validation") for reference in ("a", "c", "e", "f")]


def _held(rows: Rows) -> None:
    """a's pairs test the condition, though a is of train; the others train on it."""
    _change(rows, "pairs", _is(target_clip_id="d/a"), split="test")


def _held_clip(rows: Rows) -> None:
    _change(rows, "pairs", _is(condition="push"), split="test")
    rows["conditions"] += [_member(name, condition="pull") for name in ("a", "x", "y", "b")]
    rows["pairs"] += [_pair(name, "x", condition="pull", pair_id=f"pull {name}") for name in ("a", "y", "b")]


def _copy(rows: Rows) -> None:
    """x, which is held out, has the frames of a."""
    for table, name in (("videos", "video_id"), ("clips", "clip_id")):
        _change(rows, table, lambda row, name=name: row[name] == "d/x", split="test")
    _change(rows, "videos", lambda row: row["video_id"] in ("d/a", "d/x"), content_sha256="0")
    rows["conditions"].append(_member("x", refused="few_references"))


def _generation(rows: Rows) -> None:
    _change(rows, "pairs", _is(pair_id="a->b"), generation="2")


BROKEN = {
    "itself": [_itself],
    "video": [_video],
    "source": [_source, _grandchild],
    "group": [_group, _copies, _near],
    "condition": [_condition],
    "category": [_category, _unknown_category],
    "score": [_score],
    "few": [_few],
    "many": [_many],
    "twice": [_twice],
    "training": [_training],
    "split": [_split],
    "held": [_held],
    "held_clip": [_held_clip],
    "copy": [_copy],
    "generation": [_generation],
}


def test_lawful_pairs_have_no_findings(empty: Catalog) -> None:
    assert _told(empty, _lawful()) == []


def test_no_pairs_have_no_findings(empty: Catalog) -> None:
    assert verify(empty) == []


def test_every_rule_is_broken_by_a_test() -> None:
    assert list(BROKEN) == list(RULES)


@pytest.mark.parametrize(("rule", "break_it"), [(rule, each) for rule, breaks in BROKEN.items() for each in breaks], ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.slow
def test_a_broken_rule_is_told(rule: str, break_it: Callable[[Rows], None], empty: Catalog) -> None:
    rows = _lawful()
    break_it(rows)
    told = _told(empty, rows)
    assert told, f"{rule} is broken and nothing is told"
    others = {"held": ("held_clip",)}.get(rule, ())  # who trains on a held-out condition shows its clips
    assert {line for line in told if RULES[rule].what in line}, told
    assert [line for line in told if not any(RULES[each].what in line for each in (rule, *others))] == []


def test_all_that_is_broken_is_told_at_once_a_line_per_rule(empty: Catalog) -> None:
    rows = _lawful()
    for break_it in (_itself, _many, _score, _group, _generation):
        break_it(rows)
    told = _told(empty, rows)
    assert [name for name, rule in RULES.items() if any(rule.what in line for line in told)] == ["itself", "group", "score", "many", "generation"]
    assert len(told) == 5


def test_the_pair_and_both_clips_are_named(empty: Catalog) -> None:
    rows = _lawful()
    _itself(rows)
    assert "pairs (a->b: d/b -> d/b): a clip is its own reference: d/b" in _told(empty, rows)
