"""Tensors out of their files, bit for bit; every way in which a file can be wrong, in one sentence."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from catalogs.store import Catalog
from catalogs.tensors import SCHEMA, pack
from train.cells import CellReader, Place
from train.footers import Wanted, read_footer
from vapdata.errors import CatalogDamaged

ARRAYS = {
    "bf16": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4),
    "f16": np.linspace(-2, 2, 24, dtype=np.float16).reshape(4, 6),
    "f32": np.linspace(-2, 2, 5, dtype=np.float32),
    "u8": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "c", create=True)


def written(catalog: Catalog, dtype: str = "bf16", clips: tuple[str | None, ...] = ("d/a", "d/bé", None), product: str = "p") -> list[Place]:
    """A file with one cell a clip, each its own numbers, and where they lie."""
    arrays = [(ARRAYS[dtype] + number).astype(ARRAYS[dtype].dtype) for number, _ in enumerate(clips)]
    file = catalog.write_tensors(product, "s", 0, [(clip, pack(array, dtype)) for clip, array in zip(clips, arrays, strict=True)])
    return places(catalog, file, dtype, clips, ARRAYS[dtype].shape, product)


def places(catalog: Catalog, file: str, dtype: str, clips: tuple[str | None, ...], shape: tuple[int, ...], product: str = "p") -> list[Place]:
    footer = read_footer(catalog, file, [Wanted(row_group=group, clip_id=clip) for group, clip in enumerate(clips)])
    made = [Place(product=product, clip_id=clip, file=file, row_group=group, dtype=dtype, shape=shape, page=footer.pages[group]) for group, clip in enumerate(clips)]
    return [Place(**{**vars(place), "start": end - place.bytes if place.page >= 0 else -1}) for place, end in zip(made, footer.ends, strict=True)]


def reference(catalog: Catalog, place: Place) -> torch.Tensor:
    """The catalog's own reading."""
    return torch.from_numpy(catalog.read_tensor(vars(place), check=True))


@pytest.mark.parametrize("dtype", ARRAYS)
def test_a_tensor_is_what_the_catalog_reads_bit_for_bit(catalog: Catalog, dtype: str) -> None:
    where = written(catalog, dtype)
    read = CellReader(catalog).read(where)
    assert [place.page > 0 and place.start > place.page for place in where] == [True] * 3
    for place, tensor in zip(where, read, strict=True):
        wanted = reference(catalog, place)
        assert tensor.shape == wanted.shape and torch.equal(tensor.to(wanted.dtype), wanted)
    assert [str(tensor.dtype) for tensor in read] == [{"bf16": "torch.bfloat16", "f16": "torch.float16", "f32": "torch.float32", "u8": "torch.uint8"}[dtype]] * 3


def test_a_tensor_is_a_view_of_the_file_and_what_is_written_to_it_stays_here(catalog: Catalog) -> None:
    place = written(catalog)[0]
    reader = CellReader(catalog)
    one, again = reader.read([place, place])
    assert one.data_ptr() == again.data_ptr()
    one.zero_()
    assert float(again.abs().sum()) == 0
    assert torch.equal(CellReader(catalog).read([place])[0].float(), reference(catalog, place))


def test_tensors_stay_when_their_file_is_let_go(catalog: Catalog) -> None:
    where = [place for number in range(4) for place in written(catalog, product=f"p{number}")]
    reader = CellReader(catalog, open_files=1)
    read = reader.read(where)
    reader.expect(where)
    reader.close()
    assert all(torch.equal(tensor.float(), reference(catalog, place)) for place, tensor in zip(where, read, strict=True))


@pytest.mark.parametrize("layout", [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_version": "2.0"}])
def test_a_cell_laid_out_otherwise_is_read_all_the_same(catalog: Catalog, layout: dict[str, Any]) -> None:
    file, clips = "tensors/p/s.0.parquet", ("a", "b")
    path = Path(catalog.files.address(file))
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, SCHEMA, **{"compression": "none", "use_dictionary": False, **layout}) as writer:
        for clip in clips:
            writer.write_table(pa.table([[clip], pa.array([pack(ARRAYS["bf16"], "bf16")], pa.large_binary())], schema=SCHEMA))
    where = places(catalog, file, "bf16", clips, ARRAYS["bf16"].shape)
    assert all((place.start < 0) == ("data_page_version" not in layout) for place in where)
    assert all(torch.equal(tensor.float(), reference(catalog, place)) for place, tensor in zip(where, CellReader(catalog).read(where), strict=True))


def test_a_tensor_of_no_numbers_is_empty(catalog: Catalog) -> None:
    file = catalog.write_tensors("p", "s", 0, [("a", b"")])
    (place,) = places(catalog, file, "bf16", ("a",), (0, 4))
    assert CellReader(catalog).read([place])[0].shape == (0, 4)


# What can be wrong


def flip(catalog: Catalog, place: Place, at: int) -> None:
    with open(catalog.files.address(place.file), "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_found_when_checksums_are_asked_for(catalog: Catalog) -> None:
    where = written(catalog)
    flip(catalog, where[1], where[1].start + 3)
    reader = CellReader(catalog)
    assert torch.equal(reader.read([where[0]], check=True)[0].float(), reference(catalog, where[0]))
    reader.read([where[1]])
    with pytest.raises(CatalogDamaged, match=r"p/s\.0\.parquet row group 1 \(clip d/bé\) in .* cannot be read: .*CRC.* vapdata verify --catalog"):
        reader.read([where[1]], check=True)


def test_a_row_group_of_another_clip_is_refused(catalog: Catalog) -> None:
    one, other = written(catalog)[:2]
    swapped = Place(**{**vars(one), "clip_id": "d/x"})
    with pytest.raises(CatalogDamaged, match=r"row group 0 \(clip d/x\) in .* holds clip d/a"):
        CellReader(catalog).read([swapped])
    with pytest.raises(CatalogDamaged, match="row group 1 .* holds clip d/bé, the row that points to it says d/a"):
        read_footer(catalog, other.file, [Wanted(row_group=1, clip_id="d/a")])
    with pytest.raises(CatalogDamaged, match="has 3 row groups, a row points to number 3"):
        read_footer(catalog, other.file, [Wanted(row_group=3, clip_id="d/a")])


def test_an_id_too_long_for_the_footer_is_read_from_its_column(catalog: Catalog) -> None:
    clips = ("x" * 5000, "y" * 5000)
    where = written(catalog, clips=clips)
    assert torch.equal(CellReader(catalog).read(where)[1].float(), reference(catalog, where[1]))
    with pytest.raises(CatalogDamaged, match="holds clip xx"):
        read_footer(catalog, where[0].file, [Wanted(row_group=0, clip_id="y" * 5000)])


def test_a_shape_that_does_not_fit_the_bytes_is_refused(catalog: Catalog) -> None:
    place = written(catalog)[0]
    with pytest.raises(CatalogDamaged, match=r"48 bytes, bf16 of shape \(2, 3, 5\) needs 60"):
        CellReader(catalog).read([Place(**{**vars(place), "shape": (2, 3, 5)})])


@pytest.mark.parametrize("left", [None, 0, 3, 100, -1])
def test_a_file_that_is_gone_or_cut_short_is_one_sentence(catalog: Catalog, left: int | None) -> None:
    place = written(catalog)[0]
    path = catalog.files.address(place.file)
    size = os.path.getsize(path)
    if left is None:
        os.remove(path)
    else:
        os.truncate(path, left if left >= 0 else size - 1)
    with pytest.raises(CatalogDamaged, match=r"p/s\.0\.parquet in .* cannot be read: .* Look for what else is wrong: vapdata verify") as raised:
        read_footer(catalog, place.file, [Wanted(row_group=0, clip_id="d/a")])
    assert "\n" not in str(raised.value)
    if left != -1:  # all bytes of the first cell are there
        with pytest.raises(CatalogDamaged, match="cannot be read"):
            CellReader(catalog).read([place])
    with pytest.raises(CatalogDamaged, match=f"{'is gone' if left is None else 'has .* bytes'}, wanted {size} bytes"):
        CellReader(catalog).check_sizes({place.file: size})


# Object stores


@pytest.mark.slow
def test_tensors_of_an_object_store_are_read_by_ranges(bucket: str) -> None:
    catalog = Catalog.open(bucket, create=True)
    where = written(catalog)
    reader = CellReader(catalog, open_files=1)
    reader.expect(where)
    assert all(torch.equal(tensor.float(), reference(catalog, place)) for place, tensor in zip(where, reader.read(where), strict=True))
    with pytest.raises(CatalogDamaged, match="holds clip d/a"):
        reader.read([Place(**{**vars(where[0]), "clip_id": "d/x"})])
    with pytest.raises(CatalogDamaged, match="bytes, wanted 1 bytes"):
        reader.check_sizes({where[0].file: 1})
    with pytest.raises(CatalogDamaged, match="cannot be read"):
        reader.read([Place(**{**vars(where[0]), "file": "tensors/p/gone.0.parquet"})])
    reader.close()
