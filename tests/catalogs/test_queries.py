"""A user's question is answered; everything else is refused, and nothing is written or read beside the tables."""

import os
from pathlib import Path

import pytest
from catalog_samples import clip, score

from catalogs.queries import answer, columns_of, resolve, selected
from catalogs.store import Catalog
from vapdata.errors import CallError

QUESTIONS = (
    "select source, count(*), avg(motion) from clips_wide group by 1",
    "from clips",
    "with a as (select 1 as x) select * from a union all select 2 order by x",
    "select count(*) from clips_wide where motion > 5;",
    "explain select * from clips",
    "explain analyze select * from clips -- why",
    "values (1), (2)",
    "show tables",
    "describe clips_wide",
    "summarize scores",
    "select clip_id from main.clips, unnest([1, 2]), range(2)",
    "select c.clip_id, s.value from clips as c natural join scores as s",
    "from (pivot scores on filter in ('motion') using first(value))",
    "select file, row_group from latents",
)

REFUSED = (
    "copy clips to '{out}/x.csv'",
    "copy (select 1) to '{out}/x.parquet' (use_tmp_file false)",
    "copy (select 1) to '{table}' (format parquet, use_tmp_file false)",
    "explain copy clips to '{out}/x.csv'",
    "explain analyze copy clips to '{out}/x.csv'",
    "EXPLAIN /* */ ANALYZE /* */ COPY clips TO '{out}/x.csv'",
    "explain (analyze) copy clips to '{out}/x.csv'",
    "explain analyze export database '{out}/x'",
    "explain analyze create table x as select 1",
    "with x as (copy (select 1) to '{out}/x.csv') select * from x",
    "with x as (insert into clips values (1) returning 1) select * from x",
    "select 1; copy clips to '{out}/x.csv'",
    "attach '{out}/x.db'",
    "attach ':memory:' as x",
    "detach memory",
    "export database '{out}/x'",
    "import database '{out}/x'",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "pragma database_list",
    "call pragma_version()",
    "create table x as select 1",
    "create macro f() as 1",
    "insert into clips values (1)",
    "update clips set codec = 'x'",
    "delete from clips",
    "drop view clips",
    "vacuum",
    "checkpoint",
    "begin",
    "prepare x as select 1",
    "from '{table}'",
    "from read_parquet('{table}')",
    "from parquet_scan('{tensors}')",
    "from parquet_metadata('{table}')",
    "from read_text('{secret}')",
    "from read_blob('{secret}')",
    "from read_csv('{secret}')",
    "from '{secret}'",
    "from glob('{out}/*')",
    "from query('select 1')",
    "from query_table('clips')",
    "select (select content from read_text('{secret}'))",
    "select * from clips where clip_id in (select * from '{secret}')",
    "select * from clips, lateral (from read_csv('{secret}'))",
    "describe '{secret}'",
    "summarize '{secret}'",
    "from duckdb_settings()",
    "from sniff_csv('{secret}')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "pivot scores on filter using first(value)",
    "select * from information_schema.tables",
    "from secret",
    "select",
    "",
    "-- nothing",
)


@pytest.fixture
def places(filled: Catalog, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret.csv").write_text("password\n1234\n")
    table = filled.files.address("clips/" + filled.table_files("clips")[0])
    return {"out": str(tmp_path / "out"), "secret": str(tmp_path / "secret.csv"), "table": table, "tensors": filled.files.address("tensors/t5/d-000000.0.parquet")}


@pytest.mark.parametrize("sql", QUESTIONS)
@pytest.mark.slow
def test_a_question_is_answered(filled: Catalog, sql: str) -> None:
    assert answer(filled, sql).num_columns > 0


@pytest.mark.parametrize("sql", REFUSED)
def test_anything_else_is_refused_and_leaves_no_trace(filled: Catalog, places: dict[str, str], sql: str) -> None:
    before = {path: Path(filled.files.address(path)).read_bytes() for path in filled.files.walk("")}
    with pytest.raises(CallError, match=r"query: .*(Type|Name|Tables|did you mean)"):
        answer(filled, sql.format(**places))
    assert os.listdir(places["out"]) == []
    assert {path: Path(filled.files.address(path)).read_bytes() for path in filled.files.walk("")} == before


def test_python_variables_are_no_tables(filled: Catalog) -> None:
    with pytest.raises(CallError, match="no table is called 'secret'"):
        answer(filled, "from secret")


def test_a_wrong_name_gets_a_suggestion(filled: Catalog) -> None:
    with pytest.raises(CallError, match=r"no table is called 'clip' \(did you mean 'clips'\?\)"):
        answer(filled, "select * from clip")
    with pytest.raises(CallError, match='moton.*Candidate bindings: .*"motion"'):
        answer(filled, "select moton from clips_wide")


@pytest.mark.slow
def test_leaving_filters_out_changes_no_answer(filled: Catalog) -> None:
    filled.append({"scores": [score("a", "Blur", 2.0), score("a", "fps", 9.0)]})
    assert answer(filled, "select blur, fps_score, motion from clips_wide where clip_id = 'd/a'").to_pylist() == [{"Blur": 2.0, "fps_score": 9.0, "motion": 1.0}]
    assert len(answer(filled, "select w from clips_wide as w").column(0)[0].as_py()) == len(columns_of(filled))
    assert answer(filled, "select count(*) from clips_wide").column(0).to_pylist() == [2]


@pytest.mark.slow
def test_a_predicate_selects_clips_in_order(filled: Catalog) -> None:
    assert selected(filled, None) == ["d/a", "d/b"]
    assert selected(filled, "motion > 5 and list_contains(camera, 'pan')") == ["d/b"]
    assert selected(filled, "motion >= (select max(motion) from clips_wide)") == ["d/b"]
    with pytest.raises(CallError, match="no column is called 'moton'"):
        selected(filled, "moton > 1")


@pytest.mark.slow
def test_questions_to_the_whole_catalog_become_constants(filled: Catalog) -> None:
    filled.append({"clips": [clip("c")], "scores": [score("c", "motion", 3.0)]})
    found = resolve(filled, "motion > (select median(motion) from clips_wide) or codec = (select min(codec) from clips where false)")
    assert list(found.constants.values()) == [3.0, None]
    assert selected(filled, found.text) == ["d/b"]
    assert resolve(filled, "motion > 1").text == "motion > 1"
    with pytest.raises(CallError, match="no single value"):
        resolve(filled, "clip_id in (select clip_id from captions)")
    with pytest.raises(CallError, match="wanted one value"):
        resolve(filled, "motion > (select motion from clips_wide)")
