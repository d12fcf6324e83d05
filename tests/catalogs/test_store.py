"""A catalog keeps what it is given, whole, once, on a disk."""

import os
import pickle
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from catalog_samples import caption, clip, score, video

from catalogs.store import Catalog, settings_sha256
from catalogs.tables import TABLES
from vapdata.errors import CallError, CatalogDamaged, RunError, SettingsRefused


def test_every_table_answers_plain_duckdb_from_the_first_moment(tmp_path: Path) -> None:
    Catalog.open(tmp_path / "new", create=True)
    for name, table in TABLES.items():
        answer = duckdb.sql(f"select * from '{tmp_path}/new/{name}/*.parquet'")
        assert answer.columns == [column.name for column in table.columns]
        assert answer.fetchall() == []


def test_a_place_without_a_catalog_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no catalog at .*Make one: vapdata build"):
        Catalog.open(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(CallError, match="not a catalog and not empty: it holds holiday.jpg"):
        Catalog.open(tmp_path, create=True)
    assert os.listdir(tmp_path) == ["holiday.jpg"]
    with pytest.raises(RunError, match="Choose a --catalog that is a folder"):
        Catalog.open(tmp_path / "holiday.jpg", create=True)
    with pytest.raises(CallError, match="not understood"):
        Catalog.open("ftp://example.org/x")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Catalog.open(tmp_path / "c", create=True)
    (tmp_path / "c/catalog.json").write_text('{"format_version": 99}')
    with pytest.raises(CallError, match="format version 99"):
        Catalog.open(tmp_path / "c")


def test_a_catalog_in_a_folder_with_a_pattern_in_its_name_reads_its_own_files(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "it's [a]* ?", create=True)
    with catalog.lock("x"):
        catalog.append({"videos": [video("a")]})
    assert catalog.read("videos", ["video_id"]).to_pylist() == [{"video_id": "d/a"}]


def test_rows_come_back_the_newest_of_each_key(empty: Catalog) -> None:
    first = empty.append({"captions": [caption("a", "old"), caption("b", "kept")]}, run_id="r1")
    second = empty.append({"captions": [caption("a", "new")]}, run_id="r2")
    assert second == first + 1
    rows = empty.read("captions", ["clip_id", "text", "run_id", "commit"]).sort_by("clip_id").to_pylist()
    assert rows == [
        {"clip_id": "d/a", "text": "new", "run_id": "r2", "commit": second},
        {"clip_id": "d/b", "text": "kept", "run_id": "r1", "commit": first},
    ]


def test_a_filter_that_answers_anew_replaces_all_its_labels(empty: Catalog) -> None:
    empty.append({"scores": [score("a", "camera", 0.5, "pan"), score("a", "camera", 0.5, "zoom")]})
    empty.append({"scores": [score("a", "camera", 0.9, "static")]})
    assert empty.read("scores", ["label"]).to_pylist() == [{"label": "static"}]


def test_nothing_to_append_makes_no_commit(empty: Catalog) -> None:
    number = empty.append({"videos": [video("a")]})
    assert empty.append({"videos": [], "clips": []}) == number
    assert empty.append({}) == number


def test_a_refused_row_leaves_nothing_behind(filled: Catalog) -> None:
    before = filled.files.walk("")
    with pytest.raises(CallError, match="table clips, row 0, column codec"):
        filled.append({"videos": [video("z")], "clips": [clip("z", codec=3)]})
    assert filled.files.walk("") == before


def test_appending_needs_the_lock(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "c", create=True)
    for write in (lambda: catalog.append({"videos": [video("a")]}), catalog.merge, catalog.recover):
        with pytest.raises(CallError, match="needs its lock"):
            write()


@pytest.mark.slow
def test_merging_makes_one_file_of_the_newest_rows(filled: Catalog) -> None:
    filled.append({"captions": [caption("a", "new")], "scores": [score("c", "motion", 2.0)]})
    before = {name: filled.read(name).to_pylist() for name in TABLES}
    assert filled.merge() == ["scores", "captions"]
    assert filled.merge() == []
    for name in TABLES:
        assert sorted(map(repr, filled.read(name).to_pylist())) == sorted(map(repr, before[name]))
    folder = filled.files.address("captions")
    assert len(os.listdir(folder)) == 1
    assert duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall() == [(2,)]
    merged = pq.ParquetFile(os.path.join(folder, os.listdir(folder)[0]))
    assert merged.schema_arrow.metadata[b"vapdata.table"] == b"captions"
    filled.append({"captions": [caption("a", "newer")]})
    assert "newer" in filled.read("captions").column("text").to_pylist()


def test_an_older_file_without_a_column_reads_as_null(filled: Catalog) -> None:
    name = filled.table_files("clips")[0]
    path = filled.files.address(f"clips/{name}")
    rows = pq.read_table(path)
    pq.write_table(rows.drop_columns(["run_id"]), path)
    assert filled.read("clips").column("run_id").to_pylist() == [None, None]
    filled.append({"clips": [clip("c")]}, run_id="r2")
    assert set(filled.read("clips").column("run_id").to_pylist()) == {None, "r2"}
    filled.merge()
    assert filled.read("clips").column_names == [column.name for column in TABLES["clips"].columns]


def test_a_worker_gets_a_catalog_by_pickle_without_its_lock(filled: Catalog) -> None:
    worker = pickle.loads(pickle.dumps(filled))
    assert worker.uri == filled.uri
    assert worker.read("clips").num_rows == 2
    with pytest.raises(CallError, match="needs its lock"):
        worker.append({"videos": [video("a")]})


def test_a_tensor_comes_back_by_its_row(filled: Catalog) -> None:
    row = filled.read("latents").sort_by("clip_id").to_pylist()[1]
    assert row["file"] == "tensors/vae-9x96x160/d-000000.0.parquet"
    wanted = np.random.default_rng(0).standard_normal((2, 4, 3, 2, 2)).astype(np.float32)[1]
    assert np.abs(filled.read_tensor(row, check=True) - wanted).max() < 0.02


def test_a_row_that_points_to_another_clip_is_told(filled: Catalog) -> None:
    row = filled.read("latents").to_pylist()[0]
    with pytest.raises(CatalogDamaged, match="holds clip"):
        filled.read_tensor({**row, "clip_id": "d/z"})
    with pytest.raises(CatalogDamaged, match="cannot be read"):
        filled.read_tensor({**row, "row_group": 9})
    with pytest.raises(CatalogDamaged, match="cannot be read"):
        filled.read_tensor({**row, "file": "tensors/none.parquet"})
    with pytest.raises(CatalogDamaged, match="96 bytes, bf16 of shape"):
        filled.read_tensor({**row, "shape": [5]})


def test_parts_count_up_per_shard(filled: Catalog) -> None:
    assert filled.next_part("vae-9x96x160", "d-000000") == 1
    assert filled.next_part("vae-9x96x160", "d-000001") == 0
    filled.write_tensors("vae-9x96x160", "d/odd %", 4, [("x", b"1")])
    assert filled.parts("vae-9x96x160") == {"d-000000": 1, "d/odd %": 5}


def test_a_failing_write_leaves_the_earlier_tensor_file(filled: Catalog) -> None:
    def cells():
        yield "x", b"1"
        raise ZeroDivisionError

    before = filled.files.walk("")
    with pytest.raises(ZeroDivisionError):
        filled.write_tensors("vae-9x96x160", "d-000000", 0, cells())
    assert filled.files.walk("") == before
    assert filled.read_tensor(filled.read("latents").to_pylist()[0]) is not None


def test_recovery_removes_what_no_row_points_to(filled: Catalog) -> None:
    filled.write_tensors("vae-9x96x160", "d-000000", 1, [("x", b"1")])
    Path(filled.files.address("tensors/vae-9x96x160/.d.0.parquet.abc.tmp")).write_bytes(b"half")
    filled.note("d-000000", "vae", "d/a")
    removed = filled.recover().removed
    assert sorted(removed) == ["tensors/vae-9x96x160/.d.0.parquet.abc.tmp", "tensors/vae-9x96x160/d-000000.1.parquet"]
    assert filled.attempts("d-000000", "vae", "d/a") == 0
    assert filled.recover().removed == ()


def test_other_settings_under_one_name_are_refused_with_both_shown(empty: Catalog) -> None:
    digest = empty.claim("p", {"size": (96, 160), "short": "reject"}, step="vae")
    assert empty.claim("p", {"short": "reject", "size": [96, 160]}) == digest == settings_sha256({"size": [96, 160], "short": "reject"})
    with pytest.raises(SettingsRefused, match=r"size: was \[96, 160\], now \[480, 720\]"):
        empty.claim("p", {"size": [480, 720], "short": "reject"})
    assert empty.settings("p") == {"size": [96, 160], "short": "reject"}
    assert empty.settings("q") is None
    assert empty.products() == {"p": "vae"}
    with pytest.raises(CallError, match="cannot be written as JSON"):
        empty.claim("q", {"bad": {1, 2}})


def test_the_last_step_that_claims_a_product_is_its_maker(empty: Catalog) -> None:
    for step, maker in (("vae_first", "vae_first"), ("vae_first-2", "vae_first-2"), (None, "vae_first-2")):
        empty.claim("p", {"first": 2}, step=step)
        assert empty.products() == {"p": maker}


def test_notes_count_attempts_until_they_are_cleared(empty: Catalog) -> None:
    assert empty.attempts("s", "vae", "d/a") == 0
    assert empty.note("s", "vae", "d/a") == 1
    assert empty.note("s", "vae", "d/a") == 2
    assert empty.attempts("s", "vae", "d/b") == 0
    empty.clear("s", "vae", "d/a")
    assert empty.attempts("s", "vae", "d/a") == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_told_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Choose a --catalog that you may write to"):
        Catalog.open(tmp_path / "c", create=True)


def test_a_full_disk_is_told_with_a_remedy_and_leaves_nothing_half_written(filled: Catalog) -> None:
    before = filled.files.walk("")

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device. Free some space"):
        filled.files.write("tensors/x/y.0.parquet", full)
    assert filled.files.walk("") == before
