"""What a build would do, without doing it: shards, bytes and time, from the listing and a small sample.

    vapdata build --source openvid --root data/openvid --recipe wan2.1-t2v-1.3b --plan

The dataset is listed and compared with the catalog, nothing is written there. A few videos, the same ones every time,
are built into a catalog that is thrown away; what they took is scaled up. Exercised by
`pytest tests/pipelines/test_estimate.py`.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from catalogs.queries import check_predicate, connect, resolve, wide_columns
from catalogs.store import Catalog
from pipelines.plan import Listing, listing_of, shard_names
from pipelines.prepare import Request, build, in_process, kinds_of, tensor_bytes
from pipelines.record import Record
from pipelines.stages import Stage
from pipelines.work import CONSTANTS, ShardWork, by_kind, shards_with_work
from vapdata import weights
from vapdata.clip import BadRow, Video
from vapdata.errors import CallError
from vapdata.step import Source

SAMPLE = 8
"""Videos that are built to estimate from: their ids have the lowest digests, so that they lie anywhere in the dataset."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a build has to do, and what the sample says about it."""

    recipe: str
    listed: int
    absent: int
    malformed: int
    shards: int
    """New ones; a shard holds whole videos."""
    to_scan: int
    """Videos."""
    to_encode: int
    """Clips that were scanned earlier and still need products."""
    sampled: int
    """Videos that were built."""
    clips: int
    kept: int
    """Of the sample's clips, those that the predicate selects, that are long enough and that did not fail."""
    failed: int
    """Videos and clips of the sample that failed."""
    scan_s: float
    """Busy seconds of the scan, and of models that score, over the sample."""
    encode_s: Mapping[str, float]
    """Busy seconds of each stage of selected clips over the sample; loading the models is not counted."""
    product_bytes: Mapping[str, int]
    """Bytes of the sample's tensor files, by product."""
    rough_bytes: int
    """What a clip of the recipe is taken to write where none was measured."""
    missing: int = 0
    """Weight files that are not here: then nothing was encoded."""
    catalog_wide: bool = False
    """The predicate ranks clips against the whole catalog, of which the sample says nothing."""

    @property
    def clips_to_encode(self) -> float:
        """Clips that the build would encode, expected."""
        return self.to_scan * self.kept / max(self.sampled, 1) + self.to_encode

    @property
    def stage_hours(self) -> dict[str, float]:
        """Busy hours of one worker by stage, expected."""
        each = {name: seconds / max(self.kept, 1) * self.clips_to_encode for name, seconds in self.encode_s.items()}
        return {name: seconds / 3600 for name, seconds in {"scan": self.scan_s / max(self.sampled, 1) * self.to_scan, **each}.items()}

    @property
    def bytes_by_product(self) -> dict[str, float]:
        """Bytes on disk by product, expected."""
        return {name: size / max(self.kept, 1) * self.clips_to_encode for name, size in self.product_bytes.items()}

    def lines(self) -> list[str]:
        """The estimate as a terminal shows it."""
        share = f"{self.kept} of {self.clips} clips kept"
        lines = [
            f"videos   {self.listed} listed, {self.absent} without file, {self.malformed} unusable rows; {self.to_scan} to scan",
            f"shards   {self.shards} new",
            f"sample   {self.sampled} videos built and thrown away: {share}, {self.failed} failed",
            f"clips    about {self.clips_to_encode:.0f} to encode, {self.to_encode} of them scanned earlier",
            *self._bytes(),
            *self._time(),
        ]
        if self.catalog_wide:
            lines.append("note     the predicate compares clips with the whole catalog; the sample was compared with itself, so fewer may be kept")
        return lines

    def _bytes(self) -> list[str]:
        if not self.product_bytes:
            return [f"bytes    about {size(self.rough_bytes * self.clips_to_encode)} of tensors (rough: nothing was encoded)"]
        each = [f"         {size(count):>9}  {name}" for name, count in self.bytes_by_product.items()]
        return [f"bytes    about {size(sum(self.bytes_by_product.values()))} of tensors", *each]

    def _time(self) -> list[str]:
        hours = self.stage_hours
        stages = ", ".join(f"{name} {duration(value)}" for name, value in hours.items())
        cpus = os.cpu_count() or 1
        lines = [f"time     {stages} for one worker each; about {duration(sum(hours.values()) / cpus)} with {cpus} workers busy all the time"]
        if self.missing:
            lines.append(f"         encoding was not measured: {self.missing} weight files are not here; list them: vapdata models --recipe {self.recipe}")
        return lines


def estimate(request: Request) -> Estimate:
    """Lists the dataset, compares it with the catalog, builds a sample elsewhere. Writes nothing to the catalog.

    Raises CallError (wrong root or predicate). Missing weights are no error: then encoding is not measured.
    """
    where = request.where or request.recipe.where
    predicate = check_predicate(where, wide_columns(*by_kind(kinds_of(request))))
    listing = listing_of(request.source)
    videos = _first(listing, request.limit)
    fresh, scan, encode = _left(request, videos, where if not predicate.catalog_wide else None)
    missing = weights.missing(request.recipe.weights())
    rough = tensor_bytes(request.recipe)
    measured = _measured(request, [video["video_id"] for video in videos], measure_encoding=not missing)
    return Estimate(
        recipe=request.recipe.name,
        listed=listing.rows.num_rows,
        absent=listing.rows.num_rows - sum(listing.rows.column("present").to_pylist()),
        malformed=len(listing.bad),
        shards=len(set(shard_names("plan", 0, [video["seconds"] for video in fresh], rough))),
        to_scan=scan,
        to_encode=encode,
        rough_bytes=rough,
        missing=len(missing),
        catalog_wide=predicate.catalog_wide,
        **measured,
    )


@dataclass(frozen=True)
class _Few:
    """A source's videos of these ids alone."""

    source: Source
    ids: frozenset[str]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def root(self) -> str:
        return self.source.root

    @property
    def dataset(self) -> str:
        return self.source.dataset

    def list(self) -> Iterator[Video | BadRow]:
        """The chosen videos."""
        return (video for video in self.source.list() if isinstance(video, Video) and video.video_id in self.ids)

    def present(self) -> Mapping[str, int]:
        """As the source says."""
        return self.source.present()

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """As the source says."""
        return self.source.scores()


def _first(listing: Listing, limit: int | None) -> list[dict[str, Any]]:
    """Id and length of every video with a file, sorted by id, each once; of the first `limit`."""
    rows = listing.rows.select(["video_id", "seconds", "present"]).to_pylist()
    once = {row["video_id"]: row for row in reversed(rows) if row["present"]}
    return [once[name] for name in sorted(once)][:limit]


def _left(request: Request, videos: Sequence[dict[str, Any]], where: str | None) -> tuple[list[dict[str, Any]], int, int]:
    """(videos that the catalog does not know, how many are to scan, how many clips are to encode)."""
    try:
        catalog = Catalog.open(request.catalog)
    except CallError:  # none there yet
        return list(videos), len(videos), 0
    text = where if where is not None else resolve(catalog, request.where or request.recipe.where).text
    con = connect(catalog)
    known = {row[0] for row in con.execute("select video_id from videos where dataset = ?", [request.source.dataset]).fetchall()}
    only = None if request.limit is None else [video["video_id"] for video in videos]
    works = shards_with_work(con, request.source.dataset, request.recipe, text, kinds_of(request), only=only)
    con.close()
    fresh = [video for video in videos if video["video_id"] not in known]
    return fresh, len(fresh) + sum(len(work.videos) for work in works), sum(len(work.todo) for work in works)


def _measured(request: Request, names: Sequence[str], *, measure_encoding: bool) -> dict[str, Any]:
    """Builds the sample into a folder that is thrown away: counts, busy seconds, bytes."""
    chosen = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())[:SAMPLE]
    recipe = request.recipe if measure_encoding else dataclasses.replace(request.recipe, score=(), caption=(), encode=())
    busy: dict[str, float] = defaultdict(float)
    if not chosen:
        return {"sampled": 0, "clips": 0, "kept": 0, "failed": 0, "scan_s": 0.0, "encode_s": {}, "product_bytes": {}}
    with tempfile.TemporaryDirectory(prefix="vapdata-plan-") as folder:
        source = _Few(request.source, frozenset(chosen))
        sample = dataclasses.replace(request, source=source, recipe=recipe, catalog=folder, limit=None, command="vapdata build --plan")
        summary = build(sample, runner=lambda works, stages, **_: _timed(works, stages, busy))
        sizes = _product_bytes(folder, [product.name for product in recipe.products()])
    return {
        "sampled": len(chosen),
        "clips": summary.clips["clips"],
        "kept": summary.clips["kept"],
        "failed": summary.videos["failed"] + summary.clips["failed"],
        "scan_s": busy.pop("scan", 0.0) + sum(busy.pop(stage.name, 0.0) for stage in recipe.score),  # every clip is scored
        "encode_s": dict(busy),
        "product_bytes": sizes,
    }


def _timed(works: Sequence[ShardWork], stages: Sequence[Stage], busy: dict[str, float]) -> Iterator[Record]:
    """The stages in this process, one after the other; rows that belong to no clip are written once, and not timed."""
    for record in in_process(works, stages, address=None, on_progress=None):
        if record.shard != CONSTANTS:
            for stage, (began, ended) in record.spans.items():
                busy[stage] += ended - began
        yield record


def _product_bytes(folder: str, products: Sequence[str]) -> dict[str, int]:
    """Size of each product's tensor files, but for the rows that belong to no clip."""
    found = {}
    for product in products:
        files = (Path(folder) / "tensors" / product).glob("*.parquet")
        found[product] = sum(file.stat().st_size for file in files if not file.name.startswith(f"{CONSTANTS}."))
    return found


def size(count: float) -> str:
    """`count` bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(hours: float) -> str:
    """`hours` in words."""
    return f"{hours * 3600:.0f} s" if hours < 1 / 30 else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
