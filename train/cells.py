"""Tensors straight out of a catalog's files: mapped, not copied, once their bytes were found by the footers.

A tensor file holds one uncompressed plain page per row group, so a tensor is the last n bytes of its column chunk,
behind four that say n; the clip's id ends where that chunk begins. Both are looked at on every read, and whatever is
laid out otherwise is read by pyarrow. A mapping is private: nothing written to a tensor reaches the file.
Exercised by `pytest tests/train/test_cells.py`.
"""

import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa
import torch
from torch import Tensor

from catalogs import tensors
from catalogs.store import Catalog
from vapdata.errors import CatalogDamaged, RunError

OPEN_FILES = 64
"""Files that are kept open; opening one again takes some tens of microseconds."""
CONNECTIONS = 16
"""Reads in flight at once where the catalog lies in an object store."""

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "u8": torch.uint8}

_LENGTH_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one tensor lies, and what it is."""

    product: str
    clip_id: str | None
    file: str
    """Relative to the catalog."""
    row_group: int
    dtype: str
    shape: tuple[int, ...]
    page: int = -1
    """Byte at which the tensor's column chunk begins; -1 when it is not one plain page."""
    start: int = -1
    """Byte at which the tensor itself begins."""

    @property
    def bytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.shape) * tensors.ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.file} row group {self.row_group} ({f'clip {self.clip_id}' if self.clip_id else 'no clip'})"


@runtime_checkable
class _Source(Protocol):
    """An open tensor file."""

    def tensor(self, place: Place) -> Tensor | None:
        """The tensor at its place; None when something else lies there."""
        ...


class CellReader:
    """Reads tensors of one catalog. May be used from several threads."""

    def __init__(self, catalog: Catalog, *, open_files: int = OPEN_FILES) -> None:
        """Opens nothing yet."""
        self.catalog = catalog
        self._open_files = open_files
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = None if catalog.files.local else ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cells")

    def read(self, places: Sequence[Place], *, check: bool = False) -> list[Tensor]:
        """The tensors at these places, in order. `check` verifies the page checksums, which takes about three times as long.

        On a disk they are views of the mapped files: what touches them does the reading, which `expect` can begin
        earlier. Raises CatalogDamaged when a place does not hold what it should.
        """
        if self._pool is not None:
            return list(self._pool.map(lambda place: self._read(place, check), places))
        return [self._read(place, check) for place in places]

    def expect(self, places: Iterable[Place]) -> None:
        """Tells the system that these will be read soon, so that a disk begins now. Nothing happens in an object store."""
        for place in places:
            if place.start >= 0:
                source = self._source(place)
                if isinstance(source, _Mapped):
                    source.expect(place)

    def check_sizes(self, files: Mapping[str, int]) -> None:
        """Raises CatalogDamaged when a file is gone or has another size than it had; opens none on a disk."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            sizes = pool.map(self._size, files)
            for (file, wanted), found in zip(files.items(), sizes, strict=True):
                if found != wanted:
                    got = "is gone" if found is None else f"has {found} bytes"
                    raise CatalogDamaged(f"{file} in {self.catalog.shown} {got}, wanted {wanted} bytes. {remedy(self.catalog)}")

    def close(self) -> None:
        """Lets the files go; tensors that were read stay."""
        with self._lock:
            self._sources.clear()
        if self._pool is not None:
            self._pool.shutdown()

    def _size(self, file: str) -> int | None:
        try:
            if self.catalog.files.local:
                return os.stat(self.catalog.files.address(file)).st_size
            with self.catalog.files.open(file) as source:
                return int(source.size())
        except (OSError, RunError):
            return None

    def _read(self, place: Place, check: bool) -> Tensor:
        found = None
        if place.start >= 0 and not check and place.bytes:
            found = self._source(place).tensor(place)
        return self._by_pyarrow(place, check) if found is None else found

    def _source(self, place: Place) -> _Source:
        with self._lock:
            source = self._sources.get(place.file)
            if source is not None:
                self._sources.move_to_end(place.file)
                return source
        source = self._opened(place)
        with self._lock:
            self._sources[place.file] = source
            while len(self._sources) > self._open_files:
                self._sources.popitem(last=False)
        return source

    def _opened(self, place: Place) -> _Source:
        try:
            return _Mapped(self.catalog.files.address(place.file)) if self.catalog.files.local else _Remote(self.catalog.files.open(place.file))
        except (OSError, RunError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise CatalogDamaged(f"{place} in {self.catalog.shown} cannot be read: {error}. {remedy(self.catalog)}") from error

    def _by_pyarrow(self, place: Place, check: bool) -> Tensor:
        try:
            with self.catalog.files.open(place.file) as source:
                clip, data = tensors.read_cell(source, place.row_group, check=check)
        except (OSError, RunError, IndexError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise CatalogDamaged(f"{place} in {self.catalog.shown} cannot be read: {reason}. {remedy(self.catalog)}") from error
        if clip != place.clip_id:
            raise CatalogDamaged(f"{place} in {self.catalog.shown} holds clip {clip}. {remedy(self.catalog)}")
        if len(data) != place.bytes:
            raise CatalogDamaged(f"{place} in {self.catalog.shown}: {len(data)} bytes, {place.dtype} of shape {place.shape} needs {place.bytes}. {remedy(self.catalog)}")
        return _view(bytearray(data), place, 0)


class _Mapped:
    """A file of this machine, in memory."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            # A private mapping counts as writable, so torch makes views of it without a word.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, place: Place) -> Tensor | None:
        name = self._map[place.page - len((place.clip_id or "").encode()) : place.page]
        length = self._map[place.start - _LENGTH_BYTES : place.start]
        inside = place.start + place.bytes <= len(self._map)
        return _view(self._map, place, place.start) if inside and _holds(name, length, place) else None

    def expect(self, place: Place) -> None:
        first = place.page // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, first, max(0, min(place.start + place.bytes, len(self._map)) - first))


class _Remote:
    """An object of a store, read by ranges."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def tensor(self, place: Place) -> Tensor | None:
        name = len((place.clip_id or "").encode())
        first = place.page - name
        data = bytearray(self._file.read_at(place.start + place.bytes - first, first))
        begins = place.start - first
        inside = len(data) == begins + place.bytes
        return _view(data, place, begins) if inside and _holds(bytes(data[:name]), bytes(data[begins - _LENGTH_BYTES : begins]), place) else None


def _holds(name: bytes, length: bytes, place: Place) -> bool:
    """Whether the bytes before a tensor are its clip's id and its size."""
    return name == (place.clip_id or "").encode() and int.from_bytes(length, "little") == place.bytes


def _view(buffer: mmap.mmap | bytearray, place: Place, start: int) -> Tensor:
    if not place.bytes:
        return torch.empty(place.shape, dtype=DTYPES[place.dtype])
    return torch.frombuffer(buffer, dtype=DTYPES[place.dtype], count=math.prod(place.shape), offset=start).view(place.shape)


def remedy(catalog: Catalog) -> str:
    """What to type when a tensor is not as it should be."""
    return f"Look for what else is wrong: vapdata verify --catalog {catalog.shown}"
