"""source -> scan -> encode: the main job, from a dataset on disk to a catalog.

    vapdata build --source openvid --root data/openvid --catalog catalog --recipe tiny

Plans what is new, asks the catalog what is left to do, streams it through the stages and commits as records come
in. Killed at any moment, the same command goes on. Exercised by `pytest tests/pipelines/test_build.py`.
"""

import contextlib
import json
import logging
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from catalogs.queries import Predicate, check_predicate, connect, filters, resolve, wide_columns
from catalogs.store import Catalog
from pipelines.plan import Plan, listing_of, plan
from pipelines.recipes import Recipe
from pipelines.record import Record, merge_rows
from pipelines.stages import THUMB, Encode, Job, ScanStage, Stage
from pipelines.summary import Summary, summarize
from pipelines.work import ShardWork, by_kind, shards_with_work
from vapdata import weights
from vapdata.errors import CallError, RunError
from vapdata.step import Source, step_name

COMMIT_EVERY_S = 30.0
COMMIT_FIRST_S = 2.0
COMMIT_EVERY_ROWS = 20_000
"""A young run commits often (a quarter of its age apart), so that a kill in its first minutes loses little."""

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "av", "pyarrow", "duckdb", "ray")

log = logging.getLogger(__name__)

Show = Callable[[Mapping[str, int], Mapping[str, int], Mapping[str, int]], None]
"""Called as show(total, done, failed), each by stage, about twice a second."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `vapdata build`."""

    source: Source
    catalog: str
    recipe: Recipe
    where: str | None = None
    """Replaces the recipe's predicate."""
    limit: int | None = None
    """Only the first N videos of the sorted list."""
    address: str | None = None
    """A running Ray cluster; None starts a private one."""
    command: str = "vapdata build"


class _Gathered:
    """What has come out of the stages since the last commit."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to commit."""
        count = sum(len(rows) for rows in self.rows.values())
        now = time.monotonic()
        apart = min(COMMIT_EVERY_S, max(COMMIT_FIRST_S, (now - self._began) / 4))
        return bool(count) and (count >= COMMIT_EVERY_ROWS or now - self._last >= apart)

    def take(self) -> dict[str, list[dict[str, Any]]]:
        """The rows, by table; none are left."""
        rows, self.rows = {table: rows for table, rows in self.rows.items() if rows}, defaultdict(list)
        self._last = time.monotonic()
        return rows


def build(request: Request, *, show: Show | None = None, runner: Callable[..., Iterator[Record]] | None = None) -> Summary:
    """Builds, or goes on building, the catalog. Returns what was done.

    `runner` is how stages run over shards: Ray by default (`pipelines.run.stream`), `in_process` for measurements.
    Raises CallError (wrong root, name or predicate), MissingWeights, CatalogLocked, SettingsRefused or RunError.
    """
    began = time.time()
    recipe, where = request.recipe, request.where or request.recipe.where
    weights.require([weight for encoder in recipe.encoders for weight in encoder.weights()])
    kinds = kinds_of(request)
    predicate = check_predicate(where, wide_columns(*by_kind(kinds)))
    kinds = {name: kind for name, kind in kinds.items() if predicate.columns & {name, f"{name}_score"}}  # a join less for each other one
    listing = listing_of(request.source)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{uuid.uuid4().hex[:8]}"
    catalog = Catalog.open(request.catalog, create=True)
    with catalog.lock(request.command):
        catalog.recover()
        made = [(step_name(encoder), product) for encoder in recipe.encoders for product in encoder.products()]
        for step, product in (("scan", THUMB), *made):
            catalog.claim(product.name, product.settings, step=step)
        planned = plan(catalog, request.source, listing, run_id=run_id, limit=request.limit, tensor_bytes=tensor_bytes(recipe))
        del listing
        run = _Run(request, catalog, run_id, predicate, kinds, planned, show, runner or _ray)
        run.phases()
        summary = summarize(catalog, request.source.dataset, recipe, run.where, kinds, planned, run.records, began)
        catalog.append({"runs": [run.row(summary)]}, run_id=run_id)
        if catalog.merge():
            catalog.recover()  # tensor files whose rows were all superseded go with them
        return summary


def in_process(works: Sequence[ShardWork], stages: Sequence[Stage], *, address: str | None, on_progress: Any) -> Iterator[Record]:
    """The same stages in a plain loop in this process: what the engine's overhead is measured against."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(stage.open())) for stage in stages]
        for work in works:
            record = Record(work=work)
            for stage in opened:
                record = stage(record, lambda name, done, failed: None)
            yield record


def kinds_of(request: Request) -> dict[str, str]:
    """Every score that a predicate of this request may name, `value` or `label`: the catalog's, the recipe's, the source's."""
    return {**_kinds_in(request.catalog), **request.recipe.score_kinds(), **request.source.scores()}


def tensor_bytes(recipe: Recipe) -> int:
    """About what one clip writes: video latent, first frame and text dominate."""
    pixels = recipe.sampling.height * recipe.sampling.width
    return pixels * 3 + pixels // 64 * 16 * 2 * (recipe.sampling.frames // 4 + 3) + 226 * 4096 * 2


class _Run:
    """The phases of one build: streams what is left to do, commits what comes out."""

    def __init__(self, request: Request, catalog: Catalog, run_id: str, predicate: Predicate, kinds: dict[str, str], planned: Plan, show: Show | None, runner: Any):
        self.request, self.catalog, self.run_id, self.predicate, self.kinds, self.planned = request, catalog, run_id, predicate, kinds, planned
        self.show, self.runner = show, runner
        self.where = predicate.text
        self.constants: dict[str, Any] = {}
        self.records: list[Record] = []
        self.attempts = self._attempts_so_far()

    def phases(self) -> None:
        """Scan and encode in one stream; when the predicate spans the whole catalog, scan first, then encode."""
        if self.predicate.catalog_wide:
            self._phase([ScanStage(job=self._job(select=False))], encode=False)
            resolved = resolve(self.catalog, self.where)
            self.where, self.constants = resolved.text, resolved.constants
        encode = [Encode(job=self._job(select=True), stage=stage) for stage in self.request.recipe.encode]
        self._phase([ScanStage(job=self._job(select=True)), *encode], encode=True)

    def _job(self, *, select: bool) -> Job:
        return Job(
            catalog=self.request.catalog,
            root=os.path.abspath(self.request.source.root),
            dataset=self.request.source.dataset,
            run_id=self.run_id,
            recipe=self.request.recipe,
            where=self.where,
            select=select,
            score_kinds=self.kinds,
        )

    def _phase(self, stages: list[Stage], *, encode: bool) -> None:
        con = connect(self.catalog)
        works = shards_with_work(con, self.request.source.dataset, self.request.recipe, self.where if encode else "false", self.kinds, only=self.planned.first)
        con.close()
        if not encode:
            works = [work for work in works if work.videos]
        if not works or not stages:
            return
        if not any(work.videos for work in works):
            stages = [stage for stage in stages if stage.name != "scan"]
        total = _totals(works, stages)
        log.info("%d shards with work: %s", len(works), ", ".join(f"{stage} {count}" for stage, count in total.items()))
        self._consume(self.runner(works, stages, address=self.request.address, on_progress=self._shower(total)))

    def _shower(self, total: dict[str, int]) -> Callable[[Any], None]:
        def show(progress: Any) -> None:
            if self.show is not None:  # how many clips a video holds is known once it is scanned
                known = {stage: max(count, progress.done.get(stage, 0)) for stage, count in total.items()}
                self.show(known, progress.done, progress.failed)

        return show

    def _consume(self, records: Iterable[Record]) -> None:
        gathered = _Gathered()
        try:
            for record in records:
                if record.fatal:
                    raise RunError(f"shard {record.shard} could not be written. {record.stopped}")
                if record.stopped:
                    log.warning("shard %s is left for the next run: %s", record.shard, record.stopped)
                merge_rows(record.rows, gathered.rows)
                record.rows.clear()
                record.todo.clear()
                record.work.videos.clear()
                self.records.append(record)
                if gathered.due():
                    self._commit(gathered)
        finally:
            self._commit(gathered)

    def _commit(self, gathered: _Gathered) -> None:
        rows = gathered.take()
        for row in rows.get("failures", ()):
            row["attempts"] += self.attempts.get((row["video_id"], row["clip_id"], row["step"]), 0)
        if rows:
            self.catalog.append(rows, run_id=self.run_id)

    def _attempts_so_far(self) -> dict[tuple[str | None, str | None, str], int]:
        con = connect(self.catalog)
        rows = con.execute("select video_id, clip_id, step, attempts from failures where not permanent and step <> 'plan'").fetchall()
        con.close()
        return {(video, clip, step): attempts for video, clip, step, attempts in rows}

    def row(self, summary: Summary) -> dict[str, Any]:
        """This run's row of `runs`."""
        return {
            "command": self.request.command,
            "recipe": json.dumps(self.request.recipe.describe(), sort_keys=True, default=str),
            "predicate": self.predicate.text,
            "constants": json.dumps(self.constants),
            "versions": json.dumps({name: version(name) for name in PACKAGES}),
            "counts": json.dumps(summary.counts()),
            "stage_seconds": json.dumps(summary.stage_seconds),
            "seconds": summary.seconds,
            "peak_bytes": float(max((record.peak_bytes for record in self.records), default=0)),
            "host": platform.node(),
        }


def _ray(works: Sequence[ShardWork], stages: Sequence[Stage], *, address: str | None, on_progress: Any) -> Iterator[Record]:
    from pipelines.run import stream  # a run with nothing to do imports no Ray

    return stream(works, stages, address=address, on_progress=on_progress)


def _totals(works: Sequence[ShardWork], stages: Sequence[Stage]) -> dict[str, int]:
    scan = sum(len(work.videos) for work in works)
    encode = sum(len(work.todo) for work in works)
    return {stage.name: scan if stage.name == "scan" else max(scan + encode, 1) for stage in stages}


def _kinds_in(uri: str) -> dict[str, str]:
    """The scores that a catalog already holds, `value` or `label`; none where there is no catalog yet."""
    try:
        with contextlib.closing(connect(Catalog.open(uri), ["scores"])) as con:
            values, labels = filters(con)
    except CallError:  # no catalog there: `Catalog.open(create=True)` will say if none can be
        return {}
    return {**dict.fromkeys(values, "value"), **dict.fromkeys(labels, "label")}
