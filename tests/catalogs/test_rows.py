"""Rows that do not fit tables.py are refused with table, row, column and a remedy."""

import numpy as np
import pyarrow as pa
import pytest
from catalog_samples import clip, failure, score

from catalogs.rows import checked
from vapdata.errors import CallError


def test_rows_get_their_lineage_and_every_column() -> None:
    rows = checked("scores", [score("a", "motion", 1.5)], run_id="r", commit=7)
    row = rows.to_pylist()[0]
    assert (row["run_id"], row["commit"], row["label"]) == ("r", 7, None)
    assert row["created_at"].tzinfo is not None


def test_numpy_numbers_are_numbers() -> None:
    rows = checked("scores", [score("a", "motion", np.float32(1.5))], run_id=None, commit=1)
    assert rows.column("value").to_pylist() == [1.5]


def test_an_arrow_table_is_taken_as_well() -> None:
    rows = checked("scores", pa.table({"clip_id": ["a"], "shard": ["s"], "filter": ["f"], "value": pa.array([1], pa.int32()), "by": ["f"]}), run_id=None, commit=1)
    assert rows.column("value").to_pylist() == [1.0]


def test_an_unknown_table_column_and_type_are_named() -> None:
    with pytest.raises(CallError, match=r"no table is called 'clip' \(did you mean 'clips'\?\)"):
        checked("clip", [], run_id=None, commit=1)
    with pytest.raises(CallError, match=r"table scores has no column 'valu' \(did you mean 'value'\?\)"):
        checked("scores", [{**score("a", "motion", 1.0), "valu": 1}], run_id=None, commit=1)
    with pytest.raises(CallError, match=r"table clips, row 1, column frames: got 'many' \(str\), wanted int64"):
        checked("clips", [clip("a"), clip("b", frames="many")], run_id=None, commit=1)
    with pytest.raises(CallError, match="row 0, column text"):
        checked("captions", [{"clip_id": "a", "text": "\ud800"}], run_id=None, commit=1)


def test_null_is_refused_where_the_table_refuses_it() -> None:
    with pytest.raises(CallError, match="table clips, row 1, column codec: got null"):
        checked("clips", [clip("a"), clip("b", codec=None)], run_id=None, commit=1)
    with pytest.raises(CallError, match="column shard: got null"):
        checked("scores", [{"clip_id": "a", "filter": "f", "by": "f"}], run_id=None, commit=1)


def test_of_rows_with_one_key_the_last_counts() -> None:
    rows = checked("scores", [score("a", "motion", 1.0), score("b", "motion", 2.0), score("a", "motion", 3.0)], run_id=None, commit=1)
    assert rows.select(["clip_id", "value"]).to_pylist() == [{"clip_id": "d/b", "value": 2.0}, {"clip_id": "d/a", "value": 3.0}]


def test_failures_that_name_no_video_are_told_apart_by_their_message() -> None:
    rows = checked("failures", [failure("plan", message="line 1"), failure("plan", message="line 2"), failure("plan", message="line 1")], run_id=None, commit=1)
    assert rows.column("message").to_pylist() == ["line 2", "line 1"]
