"""Caption tables in three formats, and their bad rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vapdata.clip import BadRow
from vapdata.errors import CallError
from vapdata.sources.caption_table import CaptionRow, read


def _read(root, name, chosen=False):
    rows = list(read(str(root), name, chosen=chosen))
    return [row for row in rows if isinstance(row, CaptionRow)], [row for row in rows if isinstance(row, BadRow)]


def test_a_csv_is_read_by_its_column_names(tmp_path):
    (tmp_path / "captions.csv").write_text('Caption,id,FILE\n"one,\ntwo",1,a.mp4\n,2,b.mp4\n', encoding="utf-8")
    rows, bad = _read(tmp_path, "captions.csv")
    assert [(row.where, row.file, row.text) for row in rows] == [
        ("captions.csv:2", "a.mp4", "one,\ntwo"), ("captions.csv:4", "b.mp4", None),
    ]
    assert bad == []


def test_jsonl_and_parquet_say_the_same(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"video": "a.mp4", "text": "one"}\n\n{"video": "b.mp4"}\n', encoding="utf-8")
    pq.write_table(pa.table({"path": ["a.mp4", "b.mp4"], "text": ["one", None]}), tmp_path / "captions.parquet")
    for name in ("captions.jsonl", "captions.parquet"):
        rows, bad = _read(tmp_path, name)
        assert [(row.file, row.text) for row in rows] == [("a.mp4", "one"), ("b.mp4", None)]
        assert bad == []


def test_bad_rows_are_named_by_line_and_the_others_stay(tmp_path):
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,x,y\n,no file\nb.mp4,good\n", encoding="utf-8")
    (tmp_path / "captions.jsonl").write_text('{broken\n[1]\n{"file": 3, "text": "x"}\n{"file": "b.mp4", "text": 7}\n', encoding="utf-8")
    rows, bad = _read(tmp_path, "captions.csv")
    assert [row.file for row in rows] == ["b.mp4"]
    assert [row.where for row in bad] == ["captions.csv:2", "captions.csv:3"]
    rows, bad = _read(tmp_path, "captions.jsonl")
    assert rows == []
    assert [row.where for row in bad] == [f"captions.jsonl:{line}" for line in (1, 2, 3, 4)]


def test_a_table_that_cannot_serve_is_one_bad_row_or_a_wrong_call_when_it_was_chosen(tmp_path):
    (tmp_path / "captions.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "captions.parquet").write_bytes(b"no parquet")
    for name in ("captions.csv", "captions.parquet"):
        rows, bad = _read(tmp_path, name)
        assert rows == []
        assert [row.where for row in bad] == [name]
        with pytest.raises(CallError, match=r"folder\.captions=.*--set folder\.captions=FILE"):
            _read(tmp_path, name, chosen=True)
    with pytest.raises(CallError, match="there is no such file"):
        _read(tmp_path, "nothing.csv", chosen=True)


def test_a_description_is_a_caption_only_in_a_chosen_table(tmp_path):
    (tmp_path / "clips.csv").write_text("file,description\na.mp4,x\n", encoding="utf-8")
    assert _read(tmp_path, "clips.csv", chosen=True)[0][0].text == "x"
    assert _read(tmp_path, "clips.csv")[0] == []
