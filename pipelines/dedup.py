"""Which clips show the same thing: `vapdata dedup`. Nothing is deleted; `--where "not duplicate"` leaves the copies out.

    vapdata dedup --catalog catalog                       exact and near
    vapdata dedup --catalog catalog --method semantic     by CLIP embeddings

What is compared is filled in first where it lacks (hashes, fingerprints, embeddings), as `vapdata backfill` does; then
the table `duplicates` is replaced whole for the method. Exercised by `pytest tests/pipelines/test_dedup.py`.
"""

import contextlib
import hashlib
import json
import platform
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from catalogs.every_tensor import every_tensor
from catalogs.newest import literal
from catalogs.queries import check_predicate, columns_of, connect, selected
from catalogs.store import Catalog
from pipelines import backfill as filling
from pipelines.alike import all_close_pairs, keepers
from pipelines.recipes import Recipe
from vapdata.errors import CallError
from vapdata.filters.content import Content
from vapdata.filters.embedding import Embedding
from vapdata.filters.fingerprint import Fingerprint, difference, summaries

Method = Literal["exact", "near", "semantic"]
METHODS: tuple[Method, ...] = ("exact", "near", "semantic")
BY_DEFAULT: tuple[Method, ...] = ("exact", "near")
_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How alike is the same: `--set dedup.FIELD=VALUE`."""

    near: float = 0.16
    """Largest share of differing bits of two fingerprints (0.5 is chance). On 59 real clips re-encoded copies and excerpts lie at 0.11 and under, all others at 0.25 and over."""
    candidates: float = 0.7
    """Least cosine of the mean bits of two stretches, one of each clip, under which the clips' frames are not compared."""
    semantic: float = 0.99
    """Least cosine of two embeddings: NVIDIA's curators take 1 - 0.01, SemDeDup 1 - 0.05 and less."""

    def __post_init__(self) -> None:
        if not (0 <= self.near < 0.5 and -1 <= self.candidates <= 1 and -1 <= self.semantic <= 1):
            raise CallError(f"dedup: got {self}; wanted near from 0 to under 0.5, candidates and semantic from -1 to 1. Type --set dedup.near=0.16")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `vapdata dedup`."""

    catalog: str
    recipe: Recipe
    methods: tuple[Method, ...] = BY_DEFAULT
    comparing: Comparing = field(default_factory=Comparing)
    embedding: Embedding = field(default_factory=Embedding)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    where: str | None = None
    """Which clips are compared: SQL over clips_wide; None is all. The others count as not seen."""
    roots: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    command: str = "vapdata dedup"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one method found."""

    method: Method
    compared: int
    clusters: int
    duplicates: int
    not_compared: int
    """Clips without what is compared: failed, or nothing to see in them."""
    largest: tuple[tuple[str, int], ...]
    """(keeper, how many others it stands for), the largest clusters."""

    def lines(self) -> list[str]:
        """As a terminal shows it."""
        first = f"{self.method:<9}{self.compared} clips compared: {self.clusters} clusters, {self.duplicates} duplicates; {self.not_compared} could not be compared"
        return [first, *(f"         {count} like {keeper}" for keeper, count in self.largest)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `vapdata dedup` did."""

    catalog: str
    filled: filling.Summary
    found: tuple[Found, ...]
    seconds: float

    def lines(self) -> list[str]:
        """As a terminal shows it."""
        lines = [line for each in self.found for line in each.lines()]
        ask = f'vapdata query --catalog {self.catalog} "select * from duplicates where keeper <> clip_id order by cluster, distance"'
        hint = 'build, pairs and export leave the copies out with --where "not duplicate"'
        return [*self.filled.lines()[:-2], *lines, f"seconds  {self.seconds:.1f} in all", f"next     {ask}", f"         {hint}"]


def dedup(request: Request, *, show: filling.Show | None = None, runner: Any = None) -> Summary:
    """Fills in what is compared, compares, and replaces each method's rows of `duplicates`.

    Raises what `backfill` raises.
    """
    began = time.time()
    catalog = Catalog.open(request.catalog)
    if request.where is not None:
        check_predicate(request.where, columns_of(catalog))
    steps = {"exact": Content(), "near": request.fingerprint, "semantic": request.embedding}
    wanted = tuple(steps[method] for method in request.methods)
    told = {"catalog": request.catalog, "recipe": request.recipe, "where": request.where, "roots": request.roots, "address": request.address, "command": request.command}
    filled = filling.backfill(filling.Request(steps=wanted, **told), show=show, runner=runner)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{uuid.uuid4().hex[:8]}"
    with catalog.lock(request.command):
        catalog.recover()
        clips = _ordered(catalog, request.where)
        found = tuple(_method(catalog, request, method, clips, run_id) for method in request.methods)
        summary = Summary(catalog=request.catalog, filled=filled, found=found, seconds=time.time() - began)
        catalog.append({"runs": [_run_row(request, summary)]}, run_id=run_id)
        catalog.merge()
    return summary


def _ordered(catalog: Catalog, where: str | None) -> list[str]:
    """The clips that are compared, those to keep first: of most pixels, then of most frames."""
    with contextlib.closing(connect(catalog, ["clips"])) as con:
        rows = con.execute("select clip_id from clips order by width * height desc, frames desc, truncated, clip_id").fetchall()
    chosen = None if where is None else set(selected(catalog, where))
    return [clip for (clip,) in rows if chosen is None or clip in chosen]


def _method(catalog: Catalog, request: Request, method: Method, clips: Sequence[str], run_id: str) -> Found:
    near, seen = {"exact": _exact, "near": _near, "semantic": _semantic}[method](catalog, request, set(clips))
    order = [clip for clip in clips if clip in seen]
    kept = list(keepers(order, near))
    clusters: dict[str, list[str]] = defaultdict(list)
    for clip, keeper, _ in kept:
        clusters[keeper].append(clip)
    several = {keeper: members for keeper, members in clusters.items() if len(members) > 1}
    names = {keeper: f"{method}-{_digest(sorted(members))[:12]}" for keeper, members in several.items()}
    settings = json.dumps([method, asdict(request.comparing), repr(request.embedding), repr(request.fingerprint)], sort_keys=True)
    generation = _digest([settings, *sorted(order)])[:16]
    rows = [
        {"clip_id": clip, "method": method, "cluster": names.get(keeper), "keeper": keeper, "distance": distance, "generation": generation} for clip, keeper, distance in kept
    ]
    catalog.replace({"duplicates": _pieces(rows)}, f"method <> {literal(method)}", run_id=run_id)
    largest = Counter({keeper: len(members) - 1 for keeper, members in several.items()}).most_common(3)
    duplicates = sum(len(members) - 1 for members in several.values())
    return Found(method=method, compared=len(order), clusters=len(several), duplicates=duplicates, not_compared=len(clips) - len(order), largest=tuple(largest))


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _pieces(rows: Sequence[dict[str, Any]]) -> Iterator[pa.Table]:
    for start in range(0, len(rows), _ROWS):
        yield pa.Table.from_pylist(rows[start : start + _ROWS])


def _exact(catalog: Catalog, request: Request, clips: set[str]) -> tuple[dict[str, dict[str, float]], set[str]]:
    """By clip, its copies; and the clips that were compared."""
    with contextlib.closing(connect(catalog, ["scores"])) as con:
        rows = con.execute("select label, list(clip_id order by clip_id) from scores where filter = 'content' and label is not null group by 1").fetchall()
    groups = [[clip for clip in members if clip in clips] for _, members in rows]
    near = {clip: dict.fromkeys((other for other in group if other != clip), 0.0) for group in groups if len(group) > 1 for clip in group}
    return near, {clip for group in groups for clip in group}


def _near(catalog: Catalog, request: Request, clips: set[str]) -> tuple[dict[str, dict[str, float]], set[str]]:
    """By clip, those whose frames are nearly its own, with their distance; and the clips that were compared."""
    (product,) = request.fingerprint.products()
    return nearly_equal({clip: cell for clip, cell in every_tensor(catalog, "features", product.name) if clip in clips}, request.comparing)


def nearly_equal(bits: Mapping[str, UInt8[np.ndarray, "t 9"]], comparing: Comparing) -> tuple[dict[str, dict[str, float]], set[str]]:
    """By clip, the clips whose fingerprints differ from its own in few bits, with the share; and the clips that could be compared."""
    stretches = [(clip, vector) for clip in sorted(bits) for vector in summaries(bits[clip])]
    near: dict[str, dict[str, float]] = defaultdict(dict)
    if stretches:
        found = all_close_pairs(np.stack([vector for _, vector in stretches]), comparing.candidates)
        for one, other in sorted({(stretches[i][0], stretches[j][0]) for i, j, _ in found if stretches[i][0] != stretches[j][0]}):
            distance = difference(bits[one], bits[other])
            if distance <= comparing.near:
                near[one][other] = near[other][one] = distance
    return near, {clip for clip, _ in stretches}


def _semantic(catalog: Catalog, request: Request, clips: set[str]) -> tuple[dict[str, dict[str, float]], set[str]]:
    """By clip, those whose embedding is nearly its own, with 1 - cosine; and the clips that were compared."""
    (product,) = request.embedding.products()
    vectors = {clip: cell for clip, cell in every_tensor(catalog, "features", product.name) if clip in clips}
    near: dict[str, dict[str, float]] = defaultdict(dict)
    names = sorted(vectors)
    if names:
        for i, j, cosine in all_close_pairs(np.stack([vectors[name] for name in names]).astype(np.float32), request.comparing.semantic):
            near[names[i]][names[j]] = near[names[j]][names[i]] = max(0.0, 1.0 - cosine)
    return near, set(names)


def _run_row(request: Request, summary: Summary) -> dict[str, Any]:
    settings = {"methods": request.methods, "dedup": asdict(request.comparing), "where": request.where}
    counts = {each.method: {"planned": each.compared, "kept": each.compared - each.duplicates, "rejected": each.duplicates, "failed": each.not_compared} for each in summary.found}
    return {"command": request.command, "recipe": json.dumps(settings, sort_keys=True), "counts": json.dumps(counts), "seconds": summary.seconds, "host": platform.node()}
