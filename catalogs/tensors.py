"""A tensor as a Parquet cell and back, and the files that hold them.

A tensor file has the columns `clip_id` and `data`, one row per row group, plain and uncompressed, with page
checksums: a cell is read by its row group's number without touching its neighbours, at the disk's speed.
The catalog's tables say which cell is whose, with dtype and shape. Exercised by
`pytest tests/catalogs/test_tensors.py`.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vapdata.errors import CallError, CatalogDamaged

SCHEMA = pa.schema([pa.field("clip_id", pa.string()), pa.field("data", pa.large_binary(), nullable=False)])

ITEM_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "u8": 1}
"""Bytes per number of each dtype; `webp` cells hold an encoded picture of any length."""

_NUMPY = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4"), "u8": np.dtype("u1")}


def pack(array: np.ndarray | bytes, dtype: str) -> bytes:
    """The little-endian bytes of an array, row-major, as `dtype`.

    bf16 is rounded to the nearest, ties to even, as torch rounds; NaN stays NaN. `webp` takes the encoded bytes.
    Raises CallError when the array's kind does not fit: floats for bf16/f16/f32, uint8 for u8.
    """
    if dtype == "webp" and isinstance(array, bytes):
        return array
    if isinstance(array, bytes) or dtype not in ITEM_BYTES:
        raise CallError(f"pack: cannot store {type(array).__name__} as dtype {dtype!r}. Give an array and one of {', '.join(ITEM_BYTES)}, or bytes and 'webp'.")
    fits = array.dtype == np.uint8 if dtype == "u8" else array.dtype in (np.float16, np.float32)
    if not fits:
        wanted = "uint8" if dtype == "u8" else "float32 or float16"
        raise CallError(f"pack: dtype {dtype!r} wants {wanted}, got {array.dtype} of shape {array.shape}. Convert with .astype(...) where it is made.")
    if dtype == "bf16":
        return _to_bf16(array.astype(np.float32, copy=False)).tobytes()
    return array.astype(_NUMPY[dtype], copy=False).tobytes()


def unpack(data: bytes | memoryview, dtype: str, shape: Iterable[int]) -> np.ndarray:
    """The array that `pack` was given: bf16 and f32 as float32, f16 as float16, u8 as uint8; writable, its own memory.

    `webp` gives the encoded bytes as a one-dimensional uint8 array. Raises CatalogDamaged when the number of
    bytes does not fit dtype and shape.
    """
    sizes = tuple(int(size) for size in shape)
    if dtype == "webp":
        return np.frombuffer(data, np.uint8).copy()
    if dtype not in ITEM_BYTES:
        raise CatalogDamaged(f"unpack: unknown dtype {dtype!r}, wanted one of {', '.join(ITEM_BYTES)} or webp. Look for what is wrong: vapdata verify")
    wanted = int(np.prod(sizes, dtype=np.int64)) * ITEM_BYTES[dtype]
    if len(data) != wanted:
        raise CatalogDamaged(f"unpack: {len(data)} bytes, {dtype} of shape {sizes} needs {wanted}. Look for what is wrong: vapdata verify")
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(sizes)
    return np.frombuffer(data, _NUMPY[dtype]).reshape(sizes).copy()


def write_cells(file: BinaryIO, cells: Iterable[tuple[str | None, bytes]]) -> int:
    """Writes a whole tensor file: row group k holds the k-th (clip_id, data). Returns the number of cells."""
    count = 0
    writer = pq.ParquetWriter(
        file, SCHEMA, compression="none", use_dictionary=False, write_statistics=["clip_id"], write_page_checksum=True, store_schema=False
    )
    with writer:
        for clip_id, data in cells:
            row = [pa.array([clip_id], pa.string()), pa.array([data], pa.large_binary())]
            writer.write_table(pa.Table.from_arrays(row, schema=SCHEMA), row_group_size=1)
            count += 1
    return count


def read_cell(source: pa.NativeFile, row_group: int, *, check: bool = False) -> tuple[str | None, bytes]:
    """(clip_id, data) of one row group. `check` verifies the page checksums (OSError when they do not fit)."""
    table = pq.ParquetFile(source, page_checksum_verification=check).read_row_group(row_group)
    return table.column("clip_id")[0].as_py(), table.column("data")[0].as_py()


def read_cells(source: pa.NativeFile, *, check: bool = False) -> Iterator[tuple[str | None, bytes]]:
    """(clip_id, data) of every row group in order, one in memory at a time."""
    file = pq.ParquetFile(source, page_checksum_verification=check)
    for row_group in range(file.num_row_groups):
        table = file.read_row_group(row_group)
        yield table.column("clip_id")[0].as_py(), table.column("data")[0].as_py()


def _to_bf16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array, dtype="<f4").view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    rounded = np.where(np.isnan(array), np.uint32(0x7FC0), rounded)
    return rounded.astype("<u2")
