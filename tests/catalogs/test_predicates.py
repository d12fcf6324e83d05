"""A predicate is checked before anything starts, and gives one answer wherever it is applied."""

import pytest
from catalog_samples import clip, score

from catalogs.predicates import check_predicate, matching, wide_columns
from catalogs.rows import checked
from vapdata.errors import CallError

COLUMNS = wide_columns(["motion", "fps"], ["camera"])
CLIPS = checked("clips", [clip("b"), clip("a"), clip("c")], run_id=None, commit=1)
SCORES = checked(
    "scores",
    [score("a", "motion", 1.0), score("b", "motion", 6.0), score("b", "camera", None, "pan"), score("b", "camera", 0.5, "zoom"), score("z", "motion", 9.0)],
    run_id=None,
    commit=1,
)


def test_filters_become_columns_with_their_types() -> None:
    assert COLUMNS["motion"] == "DOUBLE"
    assert COLUMNS["camera"] == "VARCHAR[]"
    assert COLUMNS["fps_score"] == "DOUBLE"
    assert COLUMNS["clip_id"] == "VARCHAR"


def test_a_good_predicate_tells_what_it_reads() -> None:
    found = check_predicate("Motion between 0.3 and 20 and source = 'd' -- slow ones", COLUMNS)
    assert found.columns == {"motion", "source"}
    assert not found.catalog_wide


def test_a_question_to_other_clips_is_told() -> None:
    assert check_predicate("motion > (select quantile_cont(motion, 0.5) from clips_wide)", COLUMNS).catalog_wide
    assert check_predicate("clip_id in (select clip_id from captions)", COLUMNS).catalog_wide


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("moton > 1", r"no column is called 'moton' \(did you mean 'motion'\?\)"),
        ("motion", "gives DOUBLE, wanted true or false"),
        ("motion > camera", "Cannot compare"),
        ("motion > avg(motion)", r"aggregate.*\(select quantile_cont"),
        ("row_number() over () < 3", r"window.*\(select quantile_cont"),
        ("motion > 1; drop table clips", "not a condition"),
        ("1 = 1) union select (1 = 1", "not a condition"),
        ("1 = 1) from clips where (1 = 1", "not one expression"),
        ("true, true", "wanted true or false"),
        ("motion >", "not a condition"),
        ("", "empty"),
        ("clip_id in (select * from '/etc/passwd')", "files cannot be read"),
        ("(select count(*) from read_csv('/etc/passwd')) > 1", "no file"),
    ],
)
def test_a_bad_predicate_is_told_with_what_to_type(where: str, words: str) -> None:
    with pytest.raises(CallError, match=words):
        check_predicate(where, COLUMNS)


def test_matching_keeps_the_order_and_takes_null_as_no() -> None:
    assert matching(CLIPS, SCORES, None, [], []) == ["d/b", "d/a", "d/c"]
    assert matching(CLIPS, SCORES, "motion > 0.5", ["motion"], []) == ["d/b", "d/a"]
    assert matching(CLIPS, SCORES, "motion is null", ["motion"], []) == ["d/c"]
    assert matching(CLIPS, SCORES, "camera = ['pan', 'zoom']", ["motion"], ["camera"]) == ["d/b"]
    assert matching(CLIPS, SCORES, "frames = 48", [], []) == ["d/b", "d/a", "d/c"]
    assert matching(CLIPS.slice(0, 0), SCORES, "motion > 1", ["motion"], []) == []


def test_a_filter_that_has_not_answered_yet_is_null() -> None:
    assert matching(CLIPS, SCORES, "blur is null", ["blur"], []) == ["d/b", "d/a", "d/c"]


def test_matching_refuses_what_it_cannot_know() -> None:
    with pytest.raises(CallError, match="no table is called 'captions'"):
        matching(CLIPS, SCORES, "clip_id in (select clip_id from captions)", ["motion"], [])
    with pytest.raises(CallError, match="no column is called 'motion'"):
        matching(CLIPS, SCORES, "motion > 1", [], [])
