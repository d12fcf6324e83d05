"""CSV records with their lines, and a way on after a stray quote."""

import io

from vapdata.sources.csv_rows import MAX_CHARACTERS, MAX_LINES, CsvRows


def _rows(text):
    return list(CsvRows(io.StringIO(text, newline="")))


def test_each_record_says_the_physical_line_it_starts_at():
    text = 'a,b\r\n1,"two\nlines"\n\n3,"x, ""y"""\n'
    assert _rows(text) == [(1, ["a", "b"]), (2, ["1", "two\nlines"]), (5, ["3", 'x, "y"'])]


def test_a_record_that_is_given_up_is_read_again_from_its_second_line():
    rows = CsvRows(io.StringIO('h,i\na,"open\nb,2\nc,"3"\nd,4\n', newline=""))
    seen = []
    for line, fields in rows:
        seen.append((line, len(fields)))
        if len(fields) != 2 or "\n" in fields[1]:
            rows.give_up()
    assert seen[0] == (1, 2)
    assert seen[1][0] == 2
    assert seen[2:] == [(3, 2), (4, 2), (5, 2)]


def test_a_quote_that_never_closes_costs_one_line():
    lines = ['a,"open\n'] + [f"{n},x\n" for n in range(2 * MAX_LINES)]
    rows = _rows("".join(lines))
    assert rows[0] == (1, [])
    assert rows[1] == (2, ["0", "x"])
    assert len(rows) == 1 + 2 * MAX_LINES


def test_a_very_long_line_is_a_record_without_fields():
    rows = _rows("a," + "x" * (MAX_CHARACTERS + 1) + "\nb,1\n")
    assert rows == [(1, []), (2, ["b", "1"])]


def test_an_empty_file_has_no_records():
    assert _rows("") == []


def test_null_characters_do_not_stop_it():
    assert [line for line, _ in _rows("a,b\nx\0y,1\nc,2\n")] == [1, 2, 3]
