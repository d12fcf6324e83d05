"""What is printed: answers in four formats, and how far the stages are."""

import csv
import io
import json
import logging

import pyarrow as pa
import pytest

from vapdata import screen


@pytest.fixture
def answer() -> pa.Table:
    return pa.table({"clip": ["a, b", "c\n\x1b[31md", None], "motion": [1.5, float("nan"), None], "labels": [["pan", "zoom"], [], None]})


def test_csv_quotes_what_must_be_quoted_and_writes_lists_as_json(answer: pa.Table) -> None:
    rows = list(csv.reader(io.StringIO("".join(screen.csv_text(answer)))))
    assert rows[0] == ["clip", "motion", "labels"]
    assert rows[1] == ["a, b", "1.5", '["pan", "zoom"]']
    assert rows[3] == ["", "", ""]


def test_json_is_one_list_and_has_null_where_json_has_no_word(answer: pa.Table) -> None:
    rows = json.loads("".join(screen.json_text(answer)))
    assert rows[0] == {"clip": "a, b", "motion": 1.5, "labels": ["pan", "zoom"]}
    assert rows[1]["motion"] is None


def test_an_answer_without_rows_is_an_empty_list_and_a_header() -> None:
    empty = pa.table({"n": pa.array([], pa.int64())})
    assert json.loads("".join(screen.json_text(empty))) == []
    assert "".join(screen.csv_text(empty)) == "n\n"


def test_two_columns_of_one_name_are_both_there() -> None:
    twice = pa.table([pa.array([1]), pa.array([2])], names=["n", "n"])
    assert json.loads("".join(screen.json_text(twice))) == [{"n": 1, "n_2": 2}]


def test_a_table_on_the_screen_lets_no_escape_sequence_through(answer: pa.Table, capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_answer(answer)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"c\n\x1b[31md" in shown
    assert "3 rows" in shown


def test_a_long_answer_says_how_to_get_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_answer(pa.table({"n": list(range(7))}), rows=3)
    assert "7 rows; the first 3 are shown, --format csv or json gives all" in capsys.readouterr().out


def test_without_a_terminal_each_stage_ends_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vapdata")
    lines = screen.Lines()
    for done in range(5):
        lines({"scan": 4, "encode": 9}, {"scan": done, "encode": done}, {"scan": 1})
    lines.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("scan     4 of 4, 1 failed")
    assert said[1].startswith("encode   4 of 9, 0 failed")


def test_on_a_terminal_the_bars_take_the_same_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.progress(terminal=True) as show:
        show({"scan": 4}, {"scan": 2}, {"scan": 1})
        show({"scan": 4, "encode": 3}, {"scan": 4, "encode": 3}, {})
    assert "4/4" in capsys.readouterr().err
