"""Rows of a table are replaced whole, in pieces and in one commit; a plain glob sees the new ones only."""

import duckdb
import pyarrow as pa
import pytest
from catalog_samples import clip, video

from catalogs.store import Catalog
from catalogs.verify import verify
from vapdata.errors import CallError


def _condition(name: str, provider: str, generation: str) -> dict[str, object]:
    return {"clip_id": f"d/{name}", "condition": "push", "category": "motion", "provider": provider, "score": 90.0, "generation": generation}


def _rows(catalog: Catalog) -> list[tuple[str, str, str]]:
    files = catalog.files.address("conditions")
    return duckdb.sql(f"select clip_id, provider, generation from '{files}/*.parquet' order by all").fetchall()


@pytest.fixture
def catalog(empty: Catalog) -> Catalog:
    """Three clips; two providers found conditions."""
    empty.append({"videos": [video(name) for name in "abc"], "clips": [clip(name) for name in "abc"]})
    empty.append({"conditions": [_condition("a", "mined", "1"), _condition("b", "mined", "1"), _condition("a", "other", "1")]})
    return empty


def test_what_is_not_kept_is_gone_and_the_rest_stays(catalog: Catalog) -> None:
    pieces = (pa.Table.from_pylist([_condition(name, "mined", "2")]) for name in "bc")
    number = catalog.replace({"conditions": pieces}, "provider <> 'mined'", run_id="run-2")
    assert _rows(catalog) == [("d/a", "other", "1"), ("d/b", "mined", "2"), ("d/c", "mined", "2")]
    assert catalog.table_files("conditions") == [f"{number:08d}-merged.parquet"]
    assert verify(catalog, ["keys", "references", "strays"]) == []
    assert set(catalog.read("conditions").column("run_id").to_pylist()) == {None, "run-2"}


def test_everything_can_be_replaced_by_nothing(catalog: Catalog) -> None:
    catalog.replace({"conditions": []}, "false")
    assert _rows(catalog) == []
    catalog.append({"conditions": [_condition("a", "mined", "3")]})
    assert _rows(catalog) == [("d/a", "mined", "3")]
    assert verify(catalog, ["strays"]) == []


def test_a_piece_that_does_not_fit_leaves_everything_as_it_was(catalog: Catalog) -> None:
    pieces = [pa.Table.from_pylist([_condition("c", "mined", "2")]), pa.table({"mood": ["sad"]})]
    with pytest.raises(CallError, match="no column 'mood'"):
        catalog.replace({"conditions": pieces}, "false")
    assert len(_rows(catalog)) == 3
    assert verify(catalog, ["strays"]) == []
    catalog.append({"conditions": [_condition("c", "mined", "1")]})
    assert len(_rows(catalog)) == 4


def test_replacing_needs_the_lock(catalog: Catalog) -> None:
    with pytest.raises(CallError, match="needs its lock"):
        Catalog.open(catalog.uri).replace({"conditions": []}, "false")
