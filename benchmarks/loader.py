"""How fast tensors come out of a catalog, against the same tensors in other formats, in one run.

    python -m benchmarks.loader [--clips 256] [--rounds 5] [--folder FOLDER]

Clips of CogVideoX-5B-I2V's size (video latent, first-frame latent, 226 rows of text: 4.27 MB), 64 to a shard, written as
a catalog, WebDataset tars, MosaicML MDS shards and one safetensors file a clip. Each way reads all clips in order, then
random pairs, warm and cold (the files are dropped from the page cache before), on one thread; every byte of every sample
is copied into one buffer that is used again. Ways take turns, in another order in every round, for a disk that others
use is faster and slower by the minute; figures are medians over rounds, with the slowest and the fastest, and a ratio is
to plain reads of the same bytes into fresh buffers. Prints one table, appends dated rows to `benchmarks/RESULTS.md`. Peers
are measured where they can be imported: pip install webdataset mosaicml-streaming
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from benchmarks.ledger import append_row
from catalogs.store import Catalog
from catalogs.tensors import read_cell
from train.batch import Reads
from train.cells import CellReader, Place
from train.data import Loader
from train.index import Index, build_index
from train.objective import Flow
from vapdata.backbones import backbone

FACTS = backbone("cogvideox-5b-i2v")
SHAPES = {"video": (16, 13, 60, 90), "first": (16, 1, 60, 90), "text": (226, 4096)}
PRODUCTS = {"video": "cogvideox-5b-vae-49x480x720-16fps", "first": "cogvideox-5b-vae-first1-480x720", "text": FACTS.text.product}
CLIP_BYTES = sum(int(np.prod(shape)) * 2 for shape in SHAPES.values())
SHARD = 64
BATCH = 8
"""Samples of a step: what ours says at once that it will read."""
PAIR_S = 0.5
"""What training on a pair takes, on no faster a machine than there is for a real backbone; the loader reads ahead meanwhile."""
PLAIN, OURS = "plain file reads", "catalog (train.cells)"

Way = Callable[[Sequence[tuple[int, ...]]], Iterable[Any]]
"""Yields the tensors of samples, each some clips, one by one: bytes, arrays or torch tensors."""

_SINK = np.empty(max(int(np.prod(shape)) for shape in SHAPES.values()) * 2, np.uint8)


# The same tensors, written in every format


def tensors(number: int) -> dict[str, np.ndarray]:
    """A clip's tensors, bf16 as unsigned numbers."""
    random = np.random.default_rng(number)
    return {role: (random.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype("<u2") for role, shape in SHAPES.items()}


def name_of(number: int) -> str:
    """A clip's id."""
    return f"clips/{number:06d}"


def write_catalog(folder: Path, clips: int) -> Index:
    """A catalog in which each clip is the target of one pair, and what a run reads of it."""
    catalog = Catalog.open(folder, create=True)
    grid = {"height": 480, "width": 720, "resize": "stretch"}
    settings = {"video": {**grid, "kind": "video", "pixel_frames": 49, "fps": 16.0, "short": "reject"}, "first": {**grid, "kind": "first"}, "text": {"rows": 226}}
    with catalog.lock("benchmark"):
        video = {"dataset": "clips", "source": "folder", "shard": "s", "split": "train"}
        clip = {"source": "clips", "shard": "s", "split": "train", "start_s": 0.0, "end_s": 4.0, "frames": 64, "fps": 16.0, "width": 720, "height": 480}
        names = [name_of(number) for number in range(clips)]
        catalog.append({"videos": [{**video, "video_id": name, "name": name, "uri": name, "split_group": name} for name in names]})
        catalog.append({"clips": [{**clip, "clip_id": name, "video_id": name, "codec": "h264", "whole": True, "truncated": False} for name in names]})
        for role, product in PRODUCTS.items():
            digest = catalog.claim(product, settings[role], step=role)
            catalog.append({"texts" if role == "text" else "latents": list(_rows(catalog, role, product, digest, clips))})
        pair = {"condition": "c", "category": "motion", "split": "train", "provider": "benchmark"}
        pairs = [(names[number - 1], name) for number, name in enumerate(names)]
        catalog.append({"pairs": [{**pair, "pair_id": f"{one}>{other}", "reference_clip_id": one, "target_clip_id": other} for one, other in pairs]})
    return build_index(catalog, FACTS, Reads(text=True, first=1, references=1), method="vap")


def _rows(catalog: Catalog, role: str, product: str, digest: str, clips: int) -> Iterator[dict[str, Any]]:
    shared = {"shard": "s", "product": product, "model_id": "m", "revision": "r", "settings_sha256": digest, "dtype": "bf16", "shape": list(SHAPES[role])}
    latent = {"pixel_frames": 49, "latent_frames": SHAPES[role][1], "temporal_stride": 4, "first_alone": True, "has_logvar": False, "kind": role}
    for part, start in enumerate(range(0, clips, SHARD)):
        numbers = range(start, min(start + SHARD, clips))
        file = catalog.write_tensors(product, "s", part, ((name_of(number), tensors(number)[role].tobytes()) for number in numbers))
        text = {"captioner": "source", "role": "source", "length": 226}
        yield from ({**shared, "clip_id": name_of(number), "file": file, "row_group": group, **(text if role == "text" else latent)} for group, number in enumerate(numbers))
    if role == "text":
        file = catalog.write_tensors(product, "constants", 0, [(None, bytes(226 * 4096 * 2))] * 2)
        yield from ({**shared, "file": file, "row_group": group, "captioner": "constant", "role": name, "length": 1} for group, name in enumerate(("empty", "negative")))


def write_safetensors(folder: Path, clips: int) -> None:
    """One file a clip."""
    folder.mkdir()
    for number in range(clips):
        made = {role: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) for role, array in tensors(number).items()}
        safetensors.torch.save_file(made, folder / f"{number:06d}.safetensors")


def write_webdataset(folder: Path, clips: int) -> None:
    """Tar files of 64 clips."""
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for number in range(clips):
            writer.write({"__key__": f"{number:06d}", **{f"{role}.bin": array.tobytes() for role, array in tensors(number).items()}})


def write_mds(folder: Path, clips: int) -> None:
    """MDS shards of about 64 clips."""
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns=dict.fromkeys(SHAPES, "bytes"), size_limit=SHARD * (CLIP_BYTES + 64)) as writer:
        for number in range(clips):
            writer.write({role: array.tobytes() for role, array in tensors(number).items()})


# Reading


def memcpy(samples: Sequence[tuple[int, ...]]) -> Iterator[Any]:
    """Nothing is read: the upper bound."""
    resident = [np.zeros(int(np.prod(shape)) * 2, np.uint8) for shape in SHAPES.values()]
    return (array for sample in samples for _ in sample for array in resident)


def plain(index: Index) -> Way:
    """Seek and read of the same bytes of the same files, each into a new buffer."""

    def read(samples: Sequence[tuple[int, ...]]) -> Iterator[bytes]:
        opened = {file: os.open(Path(index.catalog) / file, os.O_RDONLY) for file in index.files}
        try:
            for sample in samples:
                for place in _places(index, sample):
                    yield os.pread(opened[place.file], place.bytes, place.start)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    return read


def ours(index: Index) -> Way:
    """As the loader reads: the next step's tensors are announced, then this one's taken as views of the mapped files."""

    def read(samples: Sequence[tuple[int, ...]]) -> Iterator[Any]:
        reader = CellReader(Catalog.open(index.catalog))
        steps = [[place for sample in samples[start : start + BATCH] for place in _places(index, sample)] for start in range(0, len(samples), BATCH)]
        reader.expect(steps[0])
        for places, coming in zip(steps, [*steps[1:], []], strict=True):
            reader.expect(coming)
            for place in places:
                yield reader.read([place])[0]
        reader.close()

    return read


def by_pyarrow(index: Index) -> Way:
    """As the loader did without footers, or with checksums: pyarrow opens the file and copies the row group."""

    def read(samples: Sequence[tuple[int, ...]]) -> Iterator[Any]:
        catalog = Catalog.open(index.catalog)
        for sample in samples:
            for place in _places(index, sample):
                with catalog.files.open(place.file) as source:
                    yield read_cell(source, place.row_group)[1]

    return read


def by_safetensors(folder: Path) -> Way:
    """`safetensors.torch.load_file` of each clip."""
    return lambda samples: (tensor for sample in samples for clip in sample for tensor in safetensors.torch.load_file(folder / f"{clip:06d}.safetensors").values())


def by_webdataset(folder: Path) -> Way:
    """Tars in order. It has no random access: random pairs are neighbours behind its shuffle buffer of one shard."""

    def read(samples: Sequence[tuple[int, ...]]) -> Iterator[bytes]:
        import webdataset

        shards = sorted(str(path) for path in folder.glob("*.tar"))
        dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
        if len(samples[0]) > 1:
            dataset = dataset.shuffle(SHARD, initial=SHARD)
        return (sample[f"{role}.bin"] for sample in dataset for role in SHAPES)

    return read


def by_mds(folder: Path) -> Way:
    """`StreamingDataset`, local, by number."""

    def read(samples: Sequence[tuple[int, ...]]) -> Iterator[bytes]:
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
        for sample in samples:
            for clip in sample:
                found = dataset[clip]
                yield from (found[role] for role in SHAPES)

    return read


def _places(index: Index, sample: tuple[int, ...]) -> Iterator[Place]:
    return (index.place(role, clip) for clip in sample for role in SHAPES)


# Measuring


def clock(way: Way, samples: Sequence[tuple[int, ...]]) -> float:
    """Seconds that it takes to read and copy all samples."""
    began, touched = time.perf_counter(), 0
    for tensor in way(samples):
        array = tensor.reshape(-1).view(torch.uint8).numpy() if isinstance(tensor, torch.Tensor) else np.frombuffer(tensor, np.uint8)
        np.copyto(_SINK[: len(array)], array)
        touched += len(array)
    wanted = sum(len(sample) for sample in samples) * CLIP_BYTES
    if touched != wanted:
        raise SystemExit(f"{touched} bytes were read, wanted {wanted}")
    return time.perf_counter() - began


def forget(folder: Path) -> None:
    """Drops a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def orders(clips: int) -> dict[str, list[tuple[int, ...]]]:
    """Each clip once in order; as many clips as random pairs."""
    drawn = np.random.default_rng(0).permutation(clips).tolist()
    return {"in order": [(clip,) for clip in range(clips)], "random pairs": list(zip(drawn[: clips // 2], drawn[clips // 2 :], strict=False))}


def measure(ways: dict[str, tuple[Way, Path | None]], clips: int, rounds: int) -> list[tuple[str, str]]:
    """One row for each way, order and state of the page cache."""
    rows = []
    for (order, samples), cold in ((each, cold) for each in orders(clips).items() for cold in (False, True)):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round in range(rounds + (not cold)):
            for name in np.random.default_rng(round).permutation(list(ways)).tolist():
                way, folder = ways[name]
                if cold and folder is not None:
                    forget(folder)
                taken = clock(way, samples)
                if cold or round:  # the first warm one fills the page cache
                    seconds[name].append(taken)
        size = sum(map(len, samples)) * CLIP_BYTES / 1e6
        plainly = statistics.median(seconds[PLAIN])
        for name, taken in seconds.items():
            middle = statistics.median(taken)
            rate = f"{len(samples) / middle:.0f} samples/s, {size / middle:.0f} MB/s ({size / max(taken):.0f} to {size / min(taken):.0f}), {plainly / middle:.2f} x plain"
            rows.append((f"{order}, {'cold' if cold else 'warm'}: {name}", rate))
    return rows


def whole_loader(index: Index, steps: int) -> list[tuple[str, str]]:
    """Pairs through `Loader`: scaled, in float32, with noise; and how long a training loop waits for them."""
    made = Loader(index, FACTS, Flow(), seed=0, global_batch=BATCH, micro_batch=BATCH)
    count = min(steps, made.steps_per_epoch)
    began = time.perf_counter()
    read = sum(step.bytes for step in made.steps(0, count))
    seconds = time.perf_counter() - began
    rows = [(f"loader, pairs scaled to float32 with noise, batches of {BATCH}", f"{count * BATCH / seconds:.0f} samples/s, {read / seconds / 1e6:.0f} MB/s")]
    for size, steps in ((1, 20), (BATCH, 6)):
        made = Loader(index, FACTS, Flow(), seed=0, global_batch=size, micro_batch=size)
        began, waited = time.perf_counter(), []
        for step in made.steps(0, steps):
            waited.append(step.waited_s)
            time.sleep(PAIR_S * size)
        share = sum(waited[1:]) / (time.perf_counter() - began)
        rows.append((f"loader, wait share at {PAIR_S:g} s a pair, {size} pairs a step", f"{share:.2%} (first step: {waited[0] * 1000:.0f} ms)"))
    return rows


def main(clips: int, rounds: int, folder: Path) -> None:
    """Writes, measures, prints, appends."""
    torch.set_num_threads(1)
    index = write_catalog(folder / "catalog", clips)
    write_safetensors(folder / "safetensors", clips)
    ways: dict[str, tuple[Way, Path | None]] = {
        PLAIN: (plain(index), folder / "catalog"),
        OURS: (ours(index), folder / "catalog"),
        "catalog, by pyarrow": (by_pyarrow(index), folder / "catalog"),
        "one safetensors file a clip": (by_safetensors(folder / "safetensors"), folder / "safetensors"),
        "memcpy": (memcpy, None),
    }
    absent = []
    for name, module, write, way in (("WebDataset", "webdataset", write_webdataset, by_webdataset), ("MosaicML streaming", "streaming", write_mds, by_mds)):
        if importlib.util.find_spec(module) is None:
            absent.append(name)
            continue
        write(folder / module, clips)
        ways[name] = (way(folder / module), folder / module)
    rows = [*measure(ways, clips, rounds), *whole_loader(index, 32)]
    rows.append(("clips, bytes of one", f"{clips}, {CLIP_BYTES}" + (f"; not installed: {', '.join(absent)}" if absent else "")))
    print(*(f"{what:70s} {figure}" for what, figure in rows), sep="\n")
    append_row("Loader against other formats", f"python -m benchmarks.loader --clips {clips} --rounds {rounds}", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        main(given.clips, given.rounds, given.folder or Path(made))
