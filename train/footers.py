"""Where tensors lie in their files: every footer is read once, by several threads, when a run's index is made.

A file that is absent, cut short, or holds another clip than the tables say ends the run there.
Exercised by `pytest tests/train/test_index.py`.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs.store import Catalog
from train.cells import CONNECTIONS, remedy
from train.samples import CELLS
from vapdata.errors import CatalogDamaged, RunError


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A row group that a row of the catalog points to."""

    row_group: int
    clip_id: str | None


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a tensor file's footer says of the row groups that were asked for."""

    bytes: int
    """Size of the file."""
    pages: tuple[int, ...]
    """Where each chunk of `data` begins; -1 when it is not one plain page."""
    ends: tuple[int, ...]
    """Where each ends."""


def read_footer(catalog: Catalog, file: str, wanted: Sequence[Wanted]) -> Footer:
    """Opens a tensor file and looks up row groups. Raises CatalogDamaged when it is absent, cut short, or holds other clips."""
    try:
        with catalog.files.open(file) as source:
            opened = pq.ParquetFile(source)
            spans = [_span(catalog, opened, file, each) for each in wanted]
            return Footer(bytes=source.size(), pages=tuple(span[0] for span in spans), ends=tuple(span[1] for span in spans))
    except (OSError, RunError, pa.ArrowException) as error:
        if isinstance(error, CatalogDamaged):
            raise
        reason = str(error).partition("\n")[0]
        raise CatalogDamaged(f"{file} in {catalog.shown} cannot be read: {reason}. {remedy(catalog)}") from error


def _span(catalog: Catalog, opened: pq.ParquetFile, file: str, wanted: Wanted) -> tuple[int, int]:
    if wanted.row_group >= opened.metadata.num_row_groups:
        raise CatalogDamaged(f"{file} in {catalog.shown} has {opened.metadata.num_row_groups} row groups, a row points to number {wanted.row_group}. {remedy(catalog)}")
    group = opened.metadata.row_group(wanted.row_group)
    named, data = group.column(0), group.column(1)
    found = named.statistics
    if found is not None and (found.has_min_max or found.null_count):
        clip = found.min if found.has_min_max else None
    else:  # an id too long for statistics
        clip = opened.read_row_group(wanted.row_group, columns=["clip_id"]).column(0)[0].as_py()
    if group.num_rows != 1 or clip != wanted.clip_id:
        raise CatalogDamaged(f"{file} row group {wanted.row_group} in {catalog.shown} holds clip {clip}, the row that points to it says {wanted.clip_id}. {remedy(catalog)}")
    plain = data.compression == "UNCOMPRESSED" and not data.has_dictionary_page and {*data.encodings} <= {"PLAIN", "RLE"}
    begins = data.data_page_offset
    return (begins if plain else -1), begins + data.total_compressed_size


def located(catalog: Catalog, tables: Mapping[str, pa.Table], item_bytes: Mapping[str, int]) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """The cells of each role, as CELLS has them, and every file's size.

    `tables` have the columns clip, clip_id, file, row_group, shape and length; `item_bytes` are those of a number of each role.
    """
    asked: dict[str, list[tuple[str, int, Wanted]]] = {}
    for role, table in tables.items():
        for row, (file, group, clip) in enumerate(zip(*(table.column(name).to_pylist() for name in ("file", "row_group", "clip_id")), strict=True)):
            asked.setdefault(file, []).append((role, row, Wanted(row_group=group, clip_id=clip)))
    threads = min(16, 2 * (os.cpu_count() or 1)) if catalog.files.local else CONNECTIONS
    with ThreadPoolExecutor(threads) as pool:
        footers = dict(zip(asked, pool.map(lambda file: read_footer(catalog, file, [each for _, _, each in asked[file]]), asked), strict=True))
    spans = {role: np.full((2, len(table)), -1, np.int64) for role, table in tables.items()}
    for file, wanted in asked.items():
        for (role, row, _), page, end in zip(wanted, footers[file].pages, footers[file].ends, strict=True):
            spans[role][:, row] = page, end
    cells = {role: _with_bytes(table, *spans[role], item_bytes[role]) for role, table in tables.items()}
    return cells, {file: footers[file].bytes for file in sorted(footers)}


def _with_bytes(table: pa.Table, pages: np.ndarray, ends: np.ndarray, item_bytes: int) -> pa.Table:
    """A role's cells with where each chunk and each tensor begins; -1 for both where the chunk is not one plain page."""
    shapes = np.asarray(table.column("shape").combine_chunks().flatten()).reshape(len(table), -1)
    starts = np.where(pages >= 0, ends - shapes.prod(axis=1) * item_bytes, -1)
    columns = {"clip": table.column("clip"), "file": table.column("file"), "row_group": table.column("row_group"), "page": pages, "start": starts}
    return pa.table({**columns, "shape": table.column("shape"), "length": table.column("length")}).cast(CELLS)
