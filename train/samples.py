"""The index of a run: its samples, and where every tensor that they read lies. Made once, kept in the run's folder.

    index/index.json          what was asked, products, fingerprint
    index/clips.parquet       clip ids; a clip's number is its row
    index/samples.parquet     target, split, candidate references, conditions
    index/cells-ROLE.parquet  of each clip: file, row group, bytes, shape
    index/files.parquet       tensor files with their sizes

A resumed run, and every other process of a run, reads this and asks no database. Exercised by `pytest tests/train/test_index.py`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from train.batch import Reads
from train.cells import Place
from vapdata.errors import CallError, RunError

VERSION = 2
CONSTANTS = ("empty", "negative")
"""The prompts that belong to no clip; they have the numbers behind the last clip's."""

CLIPS = pa.schema([("clip_id", pa.string())])
SAMPLES = pa.schema([("target", pa.int32()), ("split", pa.string()), ("references", pa.list_(pa.int32())), ("conditions", pa.list_(pa.string()))])
CELLS = pa.schema(
    [
        ("clip", pa.int32()),
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("page", pa.int64()),
        ("start", pa.int64()),
        ("shape", pa.list_(pa.int64())),
        ("length", pa.int32()),
    ]
)
FILES = pa.schema([("file", pa.string()), ("bytes", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One thing to learn from: a target, and the clips that may be its reference."""

    target: str
    split: str
    bucket: tuple[int, ...]
    """Shape of the target's latents, (C, T, H, W); its references have the same."""
    references: tuple[str, ...]
    """Candidates, sorted; none where the method takes no reference."""
    conditions: tuple[str, ...]
    """What target and references share."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product that the run reads."""

    role: str
    """`video`, or a field of `train.batch.Side`."""
    name: str
    dtype: str
    settings_sha256: str
    rows: int | None = None
    """Rows that a text is padded to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """What a run reads, resolved. `samples` are numbered; batches, the evaluation grid and resuming speak of the numbers."""

    catalog: str
    """Address, as it was given."""
    backbone: str
    method: str
    where: str
    caption: str | None
    """Whose text is read, captioner/role, where it was asked for."""
    reads: Reads
    channels: int
    """Latent channels; a stored log-variance lies behind them."""
    products: tuple[Product, ...]
    generation: str | None
    """Of the pairs; None without pairs."""
    left_out: Mapping[str, int]
    """Why selected clips or targets are in no sample, with how many."""
    clips: pa.Table
    chosen: pa.Table
    """The samples, as SAMPLES has them."""
    cells: Mapping[str, pa.Table]
    """Role -> its cells, as CELLS has them."""
    files: Mapping[str, int]
    """Tensor file -> its bytes."""

    @property
    def product(self) -> str:
        """The product of video latents."""
        return self.of("video").name

    def of(self, role: str) -> Product:
        """The product of a role."""
        return next(each for each in self.products if each.role == role)

    @cached_property
    def clip_ids(self) -> list[str]:
        """Clip ids by number."""
        return self.clips.column("clip_id").to_pylist()

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {clip: number for number, clip in enumerate(self.clip_ids)}

    def number(self, clip_id: str) -> int:
        """A clip's number. Raises CallError for one that no sample of the run names."""
        found = self._numbers.get(clip_id)
        if found is None:
            raise CallError(
                f"clip {clip_id} is in no sample of this run, as target or reference: --where leaves it out, it has no pair, or it is not in {self.catalog}. "
                "Name one of index/clips.parquet in the run's folder"
            )
        return found

    @cached_property
    def samples(self) -> "Samples":
        """Every sample, by number; those of the split test too, in which nothing is trained or evaluated."""
        return Samples(self)

    @cached_property
    def train(self) -> tuple[int, ...]:
        """Numbers of the samples to train on."""
        return self._in_split("train")

    @cached_property
    def validation(self) -> tuple[int, ...]:
        """Numbers of the samples to evaluate on: the split validation, or those of training where it has none."""
        return self._in_split("validation") or self.train

    @property
    def validation_is_train(self) -> bool:
        """Whether there is no sample in the split validation."""
        return not self._in_split("validation")

    def _in_split(self, split: str) -> tuple[int, ...]:
        return tuple(np.flatnonzero(np.asarray(self.chosen.column("split").to_pylist(), dtype=object) == split).tolist())

    def place(self, role: str, clip: int) -> Place:
        """Where a clip's tensor lies. `clip` is its number; behind the last, those of CONSTANTS."""
        columns = self._columns[role]
        row = columns.rows[clip]
        product = self.of(role)
        return Place(
            product=product.name,
            clip_id=self.clip_ids[clip] if clip < len(self.clip_ids) else None,
            file=columns.names[columns.file[row]],
            row_group=int(columns.row_group[row]),
            dtype=product.dtype,
            shape=tuple(columns.shape[row].tolist()),
            page=int(columns.page[row]),
            start=int(columns.start[row]),
        )

    def inner(self, role: str) -> tuple[int, ...]:
        """The shape of one row of a role whose clips differ in rows."""
        return tuple(self._columns[role].shape[0, 1:].tolist())

    def length(self, role: str, clip: int) -> int:
        """True tokens of a text."""
        columns = self._columns[role]
        return int(columns.length[columns.rows[clip]])

    def constant(self, name: str) -> int:
        """The number of the empty or the negative prompt."""
        return len(self.clip_ids) + CONSTANTS.index(name)

    @cached_property
    def _columns(self) -> dict[str, "_Columns"]:
        count = len(self.clips) + len(CONSTANTS)
        return {role: _Columns(table, count) for role, table in self.cells.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the run reads: products, clips, samples, and which cell is whose. Not of the catalog's address."""
        digest = hashlib.sha256(json.dumps([self.backbone, self.channels, asdict(self.reads), [asdict(each) for each in self.products]], sort_keys=True).encode())
        for table in (self.clips, self.chosen, *(self.cells[role].drop_columns(["page", "start"]) for role in sorted(self.cells))):
            for column in table.columns:
                for part in _parts(column.combine_chunks()):
                    digest.update(part)
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes the index. Raises OSError when the folder cannot be written."""
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        files = pa.table({"file": list(self.files), "bytes": list(self.files.values())}, schema=FILES)
        tables = {"clips": self.clips, "samples": self.chosen, "files": files, **{f"cells-{role}": table for role, table in self.cells.items()}}
        for name, table in tables.items():
            pq.write_table(table, where / f"{name}.parquet", compression="zstd")
        header = {
            "version": VERSION,
            "catalog": self.catalog,
            "backbone": self.backbone,
            "method": self.method,
            "where": self.where,
            "caption": self.caption,
            "reads": asdict(self.reads),
            "channels": self.channels,
            "products": [asdict(each) for each in self.products],
            "generation": self.generation,
            "left_out": dict(self.left_out),
            "fingerprint": self.fingerprint,
        }
        (where / "index.json").write_text(json.dumps(header, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """The index that `save` wrote. Raises CallError when there is none, RunError when it is damaged."""
        where = Path(folder)
        if not (where / "index.json").is_file():
            raise CallError(f"{where} holds no index: no run has begun there. Give the --out of a run")
        try:
            header = json.loads((where / "index.json").read_text())
            if header.pop("version") != VERSION:
                raise CallError(f"{where}/index.json is of another version of this program. Start the run anew: give another --out")
            products = tuple(Product(**each) for each in header.pop("products"))
            files = pq.read_table(where / "files.parquet")
            fingerprint = header.pop("fingerprint")
            index = cls(
                **{**header, "reads": Reads(**header["reads"])},
                products=products,
                clips=_read(where / "clips.parquet", CLIPS),
                chosen=_read(where / "samples.parquet", SAMPLES),
                cells={each.role: _read(where / f"cells-{each.role}.parquet", CELLS) for each in products},
                files=dict(zip(files.column("file").to_pylist(), files.column("bytes").to_pylist(), strict=True)),
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise RunError(f"{where}: the index cannot be read ({str(error).partition(chr(10))[0]}). Restore it from a copy, or start the run anew: give another --out") from error
        if index.fingerprint != fingerprint:
            raise RunError(f"{where}: the index's tables are not those that index.json speaks of. Restore it from a copy, or start the run anew: give another --out")
        return index


class Samples(Sequence[Sample]):
    """The samples of an index, made when they are asked for: a million of them are a few arrays."""

    def __init__(self, index: Index) -> None:
        """Reads columns out of the index's table."""
        self._index = index
        self._targets = index.chosen.column("target").to_numpy()
        self._splits = index.chosen.column("split").to_pylist()
        self._references = _Lists(index.chosen.column("references"))
        self._conditions = index.chosen.column("conditions")

    def __len__(self) -> int:
        return len(self._targets)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> "list[Sample]": ...
    def __getitem__(self, number: "int | slice") -> "Sample | list[Sample]":
        """A sample, or several."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        ids = self._index.clip_ids
        return Sample(
            target=ids[self._targets[number]],
            split=self._splits[number],
            bucket=self.bucket(number),
            references=tuple(ids[each] for each in self.candidates(number)),
            conditions=tuple(self._conditions[number].as_py()),
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def target(self, number: int) -> int:
        """The clip number of a sample's target."""
        return int(self._targets[number])

    def candidates(self, number: int) -> list[int]:
        """The clip numbers of a sample's candidate references."""
        return self._references[number]

    def bucket(self, number: int) -> tuple[int, ...]:
        """The shape of a sample's latents."""
        return self.buckets[0][self.buckets[1][number]]

    @cached_property
    def buckets(self) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """The shapes that there are, sorted, and which of them each sample has."""
        columns = self._index._columns["video"]
        shapes = columns.shape[columns.rows[self._targets]].copy()
        shapes[:, 0] = self._index.channels
        found, places = np.unique(shapes, axis=0, return_inverse=True)
        return [tuple(each) for each in found.tolist()], places.reshape(-1)


class _Columns:
    """One role's cells as arrays."""

    def __init__(self, table: pa.Table, count: int) -> None:
        self.rows = np.full(count, -1, np.int64)
        self.rows[table.column("clip").to_numpy()] = np.arange(len(table))
        files = table.column("file").combine_chunks().dictionary_encode()
        self.names: list[str] = files.dictionary.to_pylist()
        self.file = files.indices.to_numpy()
        self.row_group, self.page, self.start = (table.column(name).to_numpy() for name in ("row_group", "page", "start"))
        self.length = table.column("length").to_numpy()
        self.shape = np.asarray(table.column("shape").combine_chunks().flatten()).reshape(len(table), -1)


class _Lists:
    """A column of lists of numbers, taken apart once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self._offsets, self._values = array.offsets.to_numpy(), array.values.to_numpy()

    def __getitem__(self, number: int) -> list[int]:
        return self._values[self._offsets[number] : self._offsets[number + 1]].tolist()


def _parts(column: pa.Array) -> Iterator[bytes]:
    """A column's values as bytes, the same whatever its chunks were."""
    if pa.types.is_list(column.type):
        yield np.diff(column.offsets.to_numpy()).tobytes()
        yield from _parts(column.flatten())
    elif pa.types.is_string(column.type):
        yield pc.binary_length(column).fill_null(-1).to_numpy(zero_copy_only=False).tobytes()
        yield "".join(column.drop_null().to_pylist()).encode("utf-8", "surrogatepass")
    else:
        yield column.fill_null(-1).to_numpy(zero_copy_only=False).tobytes()


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    return pq.read_table(path).cast(schema)
