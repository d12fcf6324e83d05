"""Does a catalog keep its promises? Arithmetic on columns and bytes; no models, no video.

Every check is a function in CHECKS that yields findings; `vapdata verify` lists them and exits 1 when there are any.
Exercised by `pytest tests/catalogs/test_verify.py`.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs import journal, tensors
from catalogs.finding import SHOWN, Finding
from catalogs.lock import alive, read_holder
from catalogs.newest import quoted
from catalogs.store import OURS, Catalog, settings_sha256
from catalogs.tables import TABLES, TENSOR_TABLES, TEXT_TABLES
from catalogs.verify_pairs import pairs
from catalogs.views import connect
from vapdata.errors import CallError, VapdataError

REFERENCES = (
    ("clips", "video_id", "videos"),
    *((table, "clip_id", "clips") for table in ("scores", "captions", *TENSOR_TABLES, "conditions", "duplicates")),
    ("duplicates", "keeper", "clips"),
    ("pairs", "reference_clip_id", "clips"),
    ("pairs", "target_clip_id", "clips"),
)
"""(table, column, table whose key it names)."""

Check = Callable[[Catalog, duckdb.DuckDBPyConnection], Iterator[Finding]]


def verify(catalog: Catalog, checks: Collection[str] | None = None, handed: Sequence[Check] = ()) -> list[Finding]:
    """Everything that is wrong with a catalog; empty when nothing is. `checks` picks some of CHECKS.

    `handed` are further checks of the caller's, who has the models that they need (see catalogs/verify_captions.py).
    Reads every tensor file once. Changes nothing and needs no lock. Raises CallError for a check that does not exist.
    """
    unknown = set(checks or ()) - set(CHECKS)
    if unknown:
        raise CallError(f"verify: no check is called {', '.join(sorted(unknown))}. Checks: {', '.join(CHECKS)}.")
    wanted = [name for name in CHECKS if checks is None or name in checks]
    found = list(_unreadable(catalog))
    if found:
        return found  # the other checks need the tables
    with contextlib.closing(connect(catalog)) as connection:
        for name in wanted:
            found += _shortened(list(CHECKS[name](catalog, connection)))
        for check in handed:
            found += _shortened(list(check(catalog, connection)))
    return found


def _shortened(found: list[Finding]) -> list[Finding]:
    if len(found) <= SHOWN:
        return found
    rest = Finding(check=found[0].check, what="and more of this kind", where="catalog", got=f"{len(found)} findings", wanted="none", remedy=found[0].remedy)
    return [*found[:SHOWN], rest]


def _unreadable(catalog: Catalog) -> Iterator[Finding]:
    for table in TABLES:
        names = catalog.table_files(table)
        if not names:
            yield _finding("files", "the table has no file", table, "none", f"at least {journal.EMPTY}", _again(catalog))
        for name in names:
            problem = _file_problem(catalog, table, name)
            if problem:
                yield _finding("files", "a table's file is damaged", f"{table}/{name}", problem, "a readable file with the table's columns", _copy())


def _file_problem(catalog: Catalog, table: str, name: str) -> str | None:
    known = {column.name: column.type for column in TABLES[table].columns}
    try:
        with catalog.files.open(f"{table}/{name}") as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            for batch in file.iter_batches():
                wrong = [field.name for field in batch.schema if known.get(field.name) not in (field.type, None)]
                if wrong:
                    return f"another type in column {wrong[0]}"
    except (OSError, pa.ArrowException, VapdataError) as error:
        return str(error).partition("\n")[0][:200]
    return None


def keys(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """No two newest rows have one key; required columns have no null."""
    for name, table in TABLES.items():
        view = "all_failures" if name == "failures" else name
        key = ", ".join([*map(quoted, table.key), *(["case when video_id is null then message end"] if name == "failures" else [])])
        for row in connection.execute(f"select count(*), {key} from {view} group by all having count(*) > 1 limit {SHOWN + 1}").fetchall():
            yield _finding("keys", "a key is not unique", f"{name} {_named(table.key, row[1:])}", f"{row[0]} rows", "1", _copy())
        for column in table.columns:
            if column.required:
                (nulls,) = connection.execute(f"select count(*) from {view} where {quoted(column.name)} is null").fetchone() or (0,)
                if nulls:
                    yield _finding("keys", f"column {column.name} is null", name, f"{nulls} nulls", column.doc, _copy())


def references(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """What a row names exists."""
    for table, column, target in REFERENCES:
        key = TABLES[target].key[0]
        sql = f"select distinct {column} from {table} where {column} is not null and {column} not in (select {key} from {target}) limit {SHOWN + 1}"
        for (value,) in connection.execute(sql).fetchall():
            yield _finding("references", f"{column} names nothing", f"{table} ({column} {value})", f"no such row in {target}", "one row", _again(catalog))
    made = "select clip_id, parent_clip_id from (select video_id as clip_id, parent_clip_id from videos) where parent_clip_id is not null"
    for clip, parent in connection.execute(f"{made} and parent_clip_id not in (select clip_id from clips) limit {SHOWN + 1}").fetchall():
        yield _finding("references", "parent_clip_id names nothing", f"videos ({clip})", f"no clip {parent}", "one clip", _again(catalog))


def shapes(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Latent frames follow the frame law that the row states, and stand in the shape."""
    law = (
        "case when first_alone and pixel_frames % temporal_stride = 1 % temporal_stride then 1 + (pixel_frames - 1) // temporal_stride "
        "when pixel_frames % temporal_stride = 0 then pixel_frames // temporal_stride end"
    )
    sql = (
        f"select product, clip_id, file, row_group, latent_frames, pixel_frames, shape, {law} as wanted from latents "
        f"where latent_frames is distinct from {law} or not list_contains(shape, latent_frames) limit {SHOWN + 1}"
    )
    for product, clip, file, group, latent, pixel, shape, wanted in connection.execute(sql).fetchall():
        got = f"{latent} latent frames in shape {shape}"
        rule = f"{wanted} latent frames for {pixel} video frames" if wanted is not None else f"another number of video frames than {pixel}"
        yield _finding("shapes", "the frame law is broken", f"{file} row group {group} (clip {clip})", got, rule, _anew(catalog, product))
    for table in TENSOR_TABLES:
        sizes = "shape[2:]" if table == "features" else "shape"  # a caption may have no keyword: a feature's first size counts things
        sql = f"select product, clip_id, file, row_group, shape from {table} where len(shape) = 0 or list_min({sizes}) < 1 limit {SHOWN + 1}"
        for product, clip, file, group, shape in connection.execute(sql).fetchall():
            yield _finding("shapes", "an empty tensor", f"{file} row group {group} (clip {clip})", f"shape {shape}", "sizes from 1 on", _anew(catalog, product))
    for product, clip, length, shape in connection.execute(
        f"select product, clip_id, length, shape from texts where length < 1 or length > shape[1] limit {SHOWN + 1}"
    ).fetchall():
        yield _finding("shapes", "the text's length is not possible", f"texts ({product}, clip {clip})", str(length), f"1 to {shape[0]}", _anew(catalog, product))


def tensor_bytes(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Every tensor is where its row says, passes its checksum, has the bytes of its dtype and shape, and no NaN."""
    for table in TENSOR_TABLES:
        rows = connection.sql(f"select product, clip_id, file, row_group, dtype, shape from {table} order by file, row_group").to_arrow_table()
        opened: tuple[str, pq.ParquetFile | None, str] = ("", None, "")
        for batch in rows.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                if row["file"] != opened[0]:
                    opened = (row["file"], *_opened(catalog, row["file"]))
                problem = opened[2] or _cell_problem(opened[1], row)
                if problem:
                    where = f"{row['file']} row group {row['row_group']} (clip {row['clip_id']})"
                    yield _finding("tensor_bytes", "a tensor is not as its row says", where, *problem.split("|", 1), _anew(catalog, row["product"]))


def _opened(catalog: Catalog, path: str) -> tuple[pq.ParquetFile | None, str]:
    try:
        return pq.ParquetFile(catalog.files.open(path), page_checksum_verification=True), ""
    except (OSError, pa.ArrowException, VapdataError) as error:
        return None, f"{str(error).partition(chr(10))[0][:120]}|a readable file"


def _cell_problem(file: pq.ParquetFile | None, row: Mapping[str, Any]) -> str:
    if file is None or row["row_group"] >= file.num_row_groups:
        return f"row group {row['row_group']} is not there|one row group per row"
    try:
        table = file.read_row_group(row["row_group"])
    except (OSError, pa.ArrowException) as error:
        return f"{str(error).partition(chr(10))[0][:120]}|bytes that fit their checksum"
    if len(table) != 1 or table.column("clip_id")[0].as_py() != row["clip_id"]:
        return f"clip {table.column('clip_id')[0].as_py() if len(table) else None} there|this clip alone"
    data = table.column("data")[0].as_py()
    if row["dtype"] == "webp":
        return "" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "something else|a WebP picture"
    needed = int(np.prod(row["shape"], dtype=np.int64)) * tensors.ITEM_BYTES.get(row["dtype"], 0)
    if len(data) != needed:
        return f"{len(data)} bytes|{needed} bytes for {row['dtype']} of shape {tuple(row['shape'])}"
    numbers = tensors.unpack(data, row["dtype"], row["shape"])
    bad = int(np.count_nonzero(~np.isfinite(numbers))) if row["dtype"] != "u8" else 0
    return f"{bad} NaN or infinite numbers|none" if bad else ""


def numbers(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """No NaN or infinity stands in a column: what could not be computed is null and a failure."""
    for name, table in TABLES.items():
        for column in table.columns:
            if column.type == pa.float64():
                sql = f"select count(*) from {'all_failures' if name == 'failures' else name} where not isfinite({quoted(column.name)})"
                (bad,) = connection.execute(sql).fetchone() or (0,)
                if bad:
                    yield _finding("numbers", f"column {column.name} is not finite", name, f"{bad} rows with NaN or infinity", "numbers or null", _again(catalog))


def products(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Every product has its settings written down, and its rows were made with them."""
    for table in TENSOR_TABLES:
        for product, digest, count in connection.execute(f"select product, settings_sha256, count(*) from {table} group by all order by all").fetchall():
            settings = catalog.settings(product)
            wanted = None if settings is None else settings_sha256(settings)
            if digest != wanted:
                got = f"{count} rows made with settings {digest[:12]}"
                yield _finding("products", "settings differ", f"tensors/{product}/settings.json", got, f"{wanted and wanted[:12]}", _anew(catalog, product))


def stale(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """What was made from a text was made from the text that is there now."""
    for table in TEXT_TABLES:
        sql = (
            f"select made.product, made.clip_id, made.captioner, made.role from {table} as made join captions using (clip_id, captioner, role) "
            f"where made.text_sha256 <> captions.text_sha256 limit {SHOWN + 1}"
        )
        for product, clip, captioner, role in connection.execute(sql).fetchall():
            where = f"{table} ({product}, clip {clip})"
            yield _finding("stale", "the caption has changed since", where, f"an older {role} text of {captioner}", "the text of captions", _again(catalog))
    sql = f"select clip_id, captioner, role from captions where text_sha256 <> sha256(text) limit {SHOWN + 1}"
    for clip, captioner, role in connection.execute(sql).fetchall():
        yield _finding("stale", "a caption's hash is not its text's", f"captions ({clip}, {captioner}, {role})", "another hash", "SHA-256 of the text", _again(catalog))


def splits(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """No split group stands in two splits, clips stand in their video's."""
    sql = f"select dataset, split_group, list(distinct split order by split) from videos group by all having count(distinct split) > 1 limit {SHOWN + 1}"
    for dataset, group, torn in connection.execute(sql).fetchall():
        yield _finding("splits", "a split group is torn", f"videos (dataset {dataset}, split_group {group})", ", ".join(torn), "one split", _copy())
    sql = f"select clip_id, clips.split, videos.split from clips join videos using (video_id) where clips.split <> videos.split limit {SHOWN + 1}"
    for clip, got, wanted in connection.execute(sql).fetchall():
        yield _finding("splits", "a clip left its video's split", f"clips ({clip})", got, wanted, _copy())


def counts(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """In every run, per stage: planned = kept + rejected + failed."""
    for run, text in connection.execute("select run_id, counts from runs where counts is not null order by run_id").fetchall():
        for stage, numbers_of in json.loads(text).items():
            if not isinstance(numbers_of, dict) or "planned" not in numbers_of:
                continue
            parts = {name: int(numbers_of.get(name, 0)) for name in ("kept", "rejected", "failed")}
            if numbers_of["planned"] != sum(parts.values()):
                got = " + ".join(f"{count} {name}" for name, count in parts.items())
                yield _finding("counts", "a stage's counts do not add up", f"runs ({run}, {stage})", got, f"{numbers_of['planned']} planned", _again(catalog))


def strays(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Every file is one that the journal or a row accounts for."""
    holder = read_holder(catalog.files)
    if holder is not None and alive(catalog.files, holder):
        return  # what is being written now is accounted for when its commit ends
    accounted = journal.accounted(journal.entries(catalog.files))
    expected = {f"{table}/{name}" for table in TABLES for name in (journal.EMPTY, *accounted.get(table, ()))}
    expected |= catalog.pointed_to() | {f"journal/{number:08d}.json" for number in journal.entry_numbers(catalog.files)}
    present = {path for path in catalog.files.walk("") if not path.startswith("media/")}
    for path in sorted(present - expected):
        folder, _, name = path.rpartition("/")
        if path in OURS or (folder.startswith("tensors/") and name == "settings.json"):
            continue
        remedy = f"The next build removes what a killed one left; remove others: rm {catalog.files.address(path)}"
        yield _finding("strays", "a file that belongs to nothing", path, "a file", "none", remedy)
    for path in sorted({f"{table}/{name}" for table, names in accounted.items() for name in names} - present):
        yield _finding("strays", "a committed file is gone", path, "no file", "the file that the journal names", _copy())
    for number, entry in journal.entries(catalog.files).items():
        if not entry["done"]:
            yield _finding("strays", "a commit is not finished", f"journal/{number:08d}.json", "unfinished", "done", _again(catalog))


CHECKS: dict[str, Check] = {
    "keys": keys,
    "references": references,
    "shapes": shapes,
    "tensor_bytes": tensor_bytes,
    "numbers": numbers,
    "products": products,
    "stale": stale,
    "splits": splits,
    "pairs": pairs,
    "counts": counts,
    "strays": strays,
}


def _finding(check: str, what: str, where: str, got: str, wanted: str, remedy: str) -> Finding:
    return Finding(check=check, what=what, where=where, got=got, wanted=wanted, remedy=remedy)


def _named(key: Collection[str], values: Collection[Any]) -> str:
    return "(" + ", ".join(f"{name} {value}" for name, value in zip(key, values, strict=False)) + ")"


def _again(catalog: Catalog) -> str:
    return f"Bring it up to date: type the build command for {catalog.shown} again."


def _anew(catalog: Catalog, product: str) -> str:
    return f"Make it anew: remove {catalog.files.address(f'tensors/{product}')} and its rows by building into a new --catalog, or restore it from a copy."


def _copy() -> str:
    return "Restore it from a copy, or build into a new --catalog."
