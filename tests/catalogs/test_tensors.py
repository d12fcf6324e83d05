"""Cells are bit-equal to torch's numbers, and tensor files give back what was put in."""

import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs.tensors import pack, read_cell, read_cells, unpack, write_cells
from vapdata.errors import CallError, CatalogDamaged


def test_bf16_rounds_as_torch_does_on_every_kind_of_number() -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    edges = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x00008000], np.uint32)
    numbers = np.concatenate([bits, edges]).view(np.float32)
    finite = numbers[~np.isnan(numbers)]
    wanted = torch.from_numpy(finite).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    assert pack(finite, "bf16") == wanted


def test_bf16_of_nan_is_nan() -> None:
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(unpack(pack(nan, "bf16"), "bf16", (3,))).all()


def test_bf16_numbers_come_back_exactly() -> None:
    numbers = np.array([[1.0, -2.5, 3.140625]], np.float32)
    assert np.array_equal(unpack(pack(numbers, "bf16"), "bf16", (1, 3)), numbers)


@pytest.mark.parametrize(("dtype", "array"), [("f32", np.float32([[1.1], [2]])), ("f16", np.float16([[1.1], [2]])), ("u8", np.uint8([[1], [255]]))])
def test_other_dtypes_come_back_exactly_and_writable(dtype: str, array: np.ndarray) -> None:
    back = unpack(pack(array, dtype), dtype, array.shape)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    back[0] = 0


def test_an_array_in_another_order_is_stored_row_by_row() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.array_equal(unpack(pack(array, "bf16"), "bf16", (3, 2)), array)


def test_an_array_that_does_not_fit_its_dtype_is_refused() -> None:
    with pytest.raises(CallError, match=r"wants float32 or float16, got float64 of shape \(2,\)"):
        pack(np.zeros(2), "bf16")
    with pytest.raises(CallError, match="wants uint8"):
        pack(np.zeros(2, np.float32), "u8")
    with pytest.raises(CallError, match="one of bf16"):
        pack(np.zeros(2, np.float32), "f8")


def test_too_few_bytes_are_told() -> None:
    with pytest.raises(CatalogDamaged, match=r"7 bytes, f32 of shape \(2,\) needs 8"):
        unpack(bytes(7), "f32", (2,))


def test_a_picture_comes_back_as_its_bytes() -> None:
    assert unpack(pack(b"RIFF", "webp"), "webp", (1, 1, 3)).tobytes() == b"RIFF"


def _file(cells: list[tuple[str | None, bytes]]) -> bytes:
    with tempfile.TemporaryFile() as file:
        assert write_cells(file, cells) == len(cells)
        file.seek(0)
        return file.read()


def test_a_cell_is_read_by_its_row_group() -> None:
    data = _file([("a", b"one"), (None, b""), ("ü", bytes(1000))])
    assert read_cell(pa.BufferReader(data), 1) == (None, b"")
    assert list(read_cells(pa.BufferReader(data))) == [("a", b"one"), (None, b""), ("ü", bytes(1000))]


def test_cells_are_plain_uncompressed_and_alone_in_their_row_group() -> None:
    metadata = pq.ParquetFile(pa.BufferReader(_file([("a", b"x" * 100), ("b", b"y" * 100)]))).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [1, 1]
    column = metadata.row_group(0).column(1)
    assert column.compression == "UNCOMPRESSED"
    assert "PLAIN" in column.encodings
    assert "RLE_DICTIONARY" not in column.encodings
    assert column.statistics is None


def test_a_flipped_bit_fails_its_checksum() -> None:
    data = _file([("a", b"x" * 500)])
    broken = data.replace(b"x" * 500, b"x" * 250 + b"z" + b"x" * 249)
    assert read_cell(pa.BufferReader(broken), 0)[1] != b"x" * 500
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        read_cell(pa.BufferReader(broken), 0, check=True)


def test_an_empty_file_has_no_cells() -> None:
    assert list(read_cells(pa.BufferReader(_file([])))) == []
