"""All tensors of a product at once, for whoever compares every clip with every other. Exercised by `pytest tests/pipelines/test_dedup.py`."""

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from catalogs.store import Catalog
from catalogs.tensors import unpack
from catalogs.views import connect
from vapdata.errors import CatalogDamaged

_ROWS = 10_000


def every_tensor(catalog: Catalog, table: str, product: str) -> Iterator[tuple[str, np.ndarray]]:
    """(clip, tensor) of every row of a product, each file opened once. Raises CatalogDamaged for a file that is not as its rows say."""
    with contextlib.closing(connect(catalog, [table])) as con:
        reader = con.sql(
            f'select clip_id, file, row_group, dtype, shape from "{table}" where product = ? and clip_id is not null order by file, row_group', params=[product]
        ).to_arrow_reader(_ROWS)
        rows = (row for batch in reader for row in batch.to_pylist())
        for file, group in itertools.groupby(rows, key=lambda row: row["file"]):
            wanted = list(group)
            with catalog.files.open(file) as source:
                held = pq.ParquetFile(source).read_row_groups([row["row_group"] for row in wanted])
            for row, clip, data in zip(wanted, held.column("clip_id").to_pylist(), held.column("data").to_pylist(), strict=True):
                if clip != row["clip_id"]:
                    where = f"{file} row group {row['row_group']} (clip {row['clip_id']}) in {catalog.shown}"
                    raise CatalogDamaged(f"{where} holds clip {clip}. Look for what else is wrong: vapdata verify")
                yield clip, unpack(data, row["dtype"], row["shape"])
