"""Planning a million videos, and a build that finds nothing left to do among them.

    python -m benchmarks.plan [--clips 1000000] [--append]

A source lists a million files that are all present; `plan` writes them into an empty catalog through the store. The
rows that the tiny recipe would make of them are then written (tables only), and `build` is called again in a
fresh process: it must list, compare, ask what is left, and stop.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from benchmarks.ledger import append_row
from catalogs.queries import connect
from catalogs.store import Catalog, settings_sha256
from pipelines.plan import listing_of, plan
from pipelines.prepare import Request, build
from pipelines.recipes import recipe
from pipelines.stages import THUMB
from vapdata.clip import BadRow, Video

BATCH = 100_000


@dataclass(frozen=True, kw_only=True)
class Million:
    """A source of `count` videos that nobody will open."""

    name: ClassVar[str] = "million"
    root: str = "."
    dataset: str = "million"
    count: int = 1_000_000

    def list(self) -> Iterator[Video | BadRow]:
        """Every video, with a caption of its own."""
        for number in range(self.count):
            name = f"video_{number:07d}.mp4"
            yield Video(video_id=f"million/{name}", dataset="million", name=name, uri=name, split_group=str(number // 3), caption=_caption(number))

    def present(self) -> Mapping[str, int]:
        """All of them are there."""
        return {f"video_{number:07d}.mp4": 1000 + number for number in range(self.count)}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """None of its own."""
        return {}


def main() -> None:
    """Runs the three steps, each in a process of its own, and prints one table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--step", choices=["plan", "fill", "resume"])
    parser.add_argument("--catalog")
    options = parser.parse_args()
    if options.step:
        {"plan": _plan, "fill": _fill, "resume": _resume}[options.step](options.catalog, Million(count=options.clips))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for step in ("plan", "fill", "resume"):
            command = [sys.executable, "-m", "benchmarks.plan", "--step", step, "--clips", str(options.clips), "--catalog", f"{folder}/catalog"]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
            rows.append((f"{step}, {options.clips:,} videos", said))
            print(*rows[-1], sep="\t", flush=True)
    if options.append:
        append_row("Planning and resuming", f"python -m benchmarks.plan --clips {options.clips}", rows)


def _plan(uri: str, source: Million) -> None:
    began = time.perf_counter()
    listing = listing_of(source)
    listed = time.perf_counter() - began
    catalog = Catalog.open(uri, create=True)
    with catalog.lock("benchmark"):
        found = plan(catalog, source, listing, run_id="benchmark", limit=None, tensor_bytes=1)
        catalog.merge()
    print(f"{time.perf_counter() - began:.1f} s (listing {listed:.1f} s), {found.new_shards} shards, peak {_peak()}")


def _resume(uri: str, source: Million) -> None:
    began = time.perf_counter()
    summary = build(Request(source=source, catalog=uri, recipe=recipe("tiny"), command="benchmark"))
    assert not summary.stage_seconds, summary
    print(f"{time.perf_counter() - began:.1f} s, {summary.clips['kept']:,} clips kept, nothing to do, peak {_peak()}")


def _fill(uri: str, source: Million) -> None:
    catalog = Catalog.open(uri)
    began = time.perf_counter()
    with catalog.lock("benchmark"):
        for start in range(0, source.count, BATCH):
            catalog.append(_rows(start, min(start + BATCH, source.count)), run_id="benchmark")
        catalog.append({"texts": [_constant(role) for role in ("empty", "negative")]}, run_id="benchmark")
        made = [(encoder.name, product) for encoder in recipe("tiny").encoders for product in encoder.products()]
        for step, product in (("scan", THUMB), *made):
            catalog.claim(product.name, product.settings, step=step)
        catalog.merge()
    with connect(catalog) as con:
        rows = con.execute("select (select count(*) from latents) + (select count(*) from scores)").fetchone()[0]
    print(f"{time.perf_counter() - began:.1f} s to write and merge what a build would have, {rows:,} latents and scores")


def _rows(start: int, end: int) -> dict[str, pa.Table]:
    count = end - start
    names = [f"million/video_{number:07d}.mp4" for number in range(start, end)]
    key = {"clip_id": pa.array(names), "shard": pa.array([f"million-{number // 64:06d}" for number in range(start, end)])}
    texts = [_caption(number) for number in range(start, end)]
    hashes = pa.array([hashlib.sha256(text.encode()).hexdigest() for text in texts])
    told = {"captioner": _all("source", count), "role": _all("source", count), "text_sha256": hashes}
    tables = {
        "clips": pa.table({**key, "video_id": key["clip_id"], **{name: _all(value, count) for name, value in _CLIP.items()}}),
        "captions": pa.table({**key, **told, "text": pa.array(texts)}),
        "scores": pa.concat_tables(_score(key, name, count) for name in recipe("tiny").score_kinds()),
    }
    for product in recipe("tiny").products():
        made = {
            "product": product.name,
            "model_id": product.model_id,
            "revision": product.revision,
            "settings_sha256": settings_sha256(product.settings),
            "dtype": product.dtype,
            "file": f"tensors/{product.name}/x.0.parquet",
            "row_group": 0,
            **{"latents": _LATENT, "texts": {"length": 9}}.get(product.table, {}),
        }
        columns = {**key, **{name: _all(value, count) for name, value in made.items()}, "shape": pa.array([[1]] * count)}
        table = pa.table({**columns, **(told if product.reads_caption else {})})
        tables[product.table] = pa.concat_tables([tables[product.table], table]) if product.table in tables else table
    return tables


_CLIP = {
    "start_s": 0.0, "end_s": 5.0, "frames": 120, "fps": 24.0, "width": 1280, "height": 720,
    "whole": True, "truncated": False, "codec": "h264", "source": "million", "split": "train",
}
_LATENT = {"kind": "video", "pixel_frames": 9, "latent_frames": 3, "temporal_stride": 4, "first_alone": True, "has_logvar": False}


def _score(key: dict[str, pa.Array], name: str, count: int) -> pa.Table:
    return pa.table({**key, "filter": _all(name, count), "value": _all(4.0, count), "by": _all(name, count)})


def _constant(role: str) -> dict[str, object]:
    product = next(each for each in recipe("tiny").products() if each.table == "texts")
    place = {"file": "tensors/x/constants.0.parquet", "row_group": 0, "shape": [1], "dtype": product.dtype, "length": 1, "shard": "constants"}
    made = {"product": product.name, "model_id": product.model_id, "revision": product.revision, "settings_sha256": settings_sha256(product.settings)}
    return {"clip_id": None, "captioner": "constant", "role": role, **place, **made}


def _caption(number: int) -> str:
    return f"In this video, number {number}, something moves across scene {number % 977} while the camera stays where it is and the light does not change."


def _all(value: object, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), count)


def _peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


if __name__ == "__main__":
    main()
