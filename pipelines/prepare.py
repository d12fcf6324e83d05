"""source -> scan -> score -> caption -> encode: the main job, from a dataset on disk to a catalog.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from catalogs.queries import Predicate, check_predicate, connect, filters, resolve, wide_columns
from catalogs.store import Catalog
from pipelines.commit import Committer
from pipelines.look_work import looks_left
from pipelines.looking import Look
from pipelines.plan import Plan, listing_of, plan
from pipelines.recipes import Recipe
from pipelines.record import Progress, Record
from pipelines.stages import THUMB, Encode, Job, ScanStage, Stage
from pipelines.summary import Summary, summarize
from pipelines.work import Looked, ShardWork, by_kind, shards_with_work
from vapdata import weights
from vapdata.errors import CallError
from vapdata.step import Source, step_name

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "av", "pyarrow", "duckdb", "ray")

HERE = "here"
"""As an address: in this process, without Ray."""

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
    """A running Ray cluster; HERE for none, in this process; None starts a private one."""
    command: str = "vapdata build"


def build(request: Request, *, show: Show | None = None, runner: Callable[..., Iterator[Record]] | None = None) -> Summary:
    """Builds, or goes on building, the catalog. Returns what was done.

    `runner` is how stages run over shards: what `address` says by default, `in_process` for measurements.
    Raises CallError (wrong root, name or predicate), MissingWeights, CatalogLocked, SettingsRefused or RunError.
    """
    began = time.time()
    recipe, where = request.recipe, request.where or request.recipe.where
    weights.require(recipe.weights())
    for describer in recipe.describers:
        describer.ready()
    kinds = kinds_of(request)
    predicate = check_predicate(where, wide_columns(*by_kind(kinds)))
    kinds = {name: kind for name, kind in kinds.items() if predicate.columns & {name, f"{name}_score"}}  # a join less for each other one
    listing = listing_of(request.source)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{uuid.uuid4().hex[:8]}"
    catalog = Catalog.open(request.catalog, create=True)
    with catalog.lock(request.command):
        catalog.recover()
        made = [(step_name(step), product) for step in (*recipe.judges, *recipe.encoders) for product in step.products()]
        for step, product in (("scan", THUMB), *made):
            catalog.claim(product.name, product.settings, step=step)
        planned = plan(catalog, request.source, listing, run_id=run_id, limit=request.limit, tensor_bytes=tensor_bytes(recipe))
        del listing
        run = _Run(request, catalog, run_id, predicate, kinds, planned, show, runner or at_address)
        run.phases()
        summary = summarize(catalog, request.source.dataset, recipe, run.where, kinds, planned, run.committer.records, began)
        catalog.append({"runs": [run.row(summary)]}, run_id=run_id)
        if catalog.merge():
            catalog.recover()  # tensor files whose rows were all superseded go with them
        return summary


def in_process(works: Sequence[ShardWork], stages: Sequence[Stage], *, address: str | None, on_progress: Any) -> Iterator[Record]:
    """The same stages in a plain loop in this process: for few clips, for a debugger, and what the engine's overhead is measured against."""
    progress = Progress()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(stage.open())) for stage in stages]
        for work in works:
            record = Record(work=work)
            for stage in opened:
                record = stage(record, progress.add)
            if on_progress is not None:
                on_progress(progress)
            yield record


def kinds_of(request: Request) -> dict[str, str]:
    """Every score that a predicate of this request may name, `value` or `label`: the catalog's, the recipe's, the source's."""
    return {**kinds_in(request.catalog), **request.recipe.score_kinds(), **request.source.scores()}


def tensor_bytes(recipe: Recipe) -> int:
    """About what one clip writes: video latent, first frame and text dominate."""
    pixels = recipe.sampling.height * recipe.sampling.width
    return pixels * 3 + pixels // 64 * 16 * 2 * (recipe.sampling.frames // 4 + 3) + 226 * 4096 * 2


class _Run:
    """The phases of one build: streams what is left to do, commits what comes out."""

    def __init__(self, request: Request, catalog: Catalog, run_id: str, predicate: Predicate, kinds: dict[str, str], planned: Plan, show: Show | None, runner: Any):
        self.request, self.catalog, self.run_id, self.predicate, self.kinds, self.planned = request, catalog, run_id, predicate, kinds, planned
        self.recipe = request.recipe
        self.show, self.runner = show, runner
        self.where = predicate.text
        self.constants: dict[str, Any] = {}
        self.committer = Committer(catalog, run_id)

    def phases(self) -> None:
        """One stream, where that is enough. What selects or describes clips of earlier runs comes in a stream of its own before it.

        Scores first when the predicate spans the whole catalog, or when clips that are there lack scores; then captions
        when clips that are selected lack them; then everything.
        """
        if self.predicate.catalog_wide or (self.recipe.score and self._looks(score=True)):
            self._phase(self._stages("score", select=False), looks=self._looks(score=True))
        if self.predicate.catalog_wide:
            resolved = resolve(self.catalog, self.where)
            self.where, self.constants = resolved.text, resolved.constants
        if self.recipe.caption and (looks := self._looks(score=False)):
            self._phase(self._stages("caption", select=True), looks=looks)
        self._phase(self._stages("encode", select=True), encode=True)

    def _stages(self, until: Literal["score", "caption", "encode"], *, select: bool) -> list[Stage]:
        job = self._job(select=select)
        stages: list[Stage] = [ScanStage(job=job), *(Look(job=job, stage=stage) for stage in self.recipe.score)]
        if until != "score":
            stages += [Look(job=job, stage=stage, fresh="selected") for stage in self.recipe.caption]
        if until == "encode":
            stages += [Encode(job=job, stage=stage) for stage in self.recipe.encode]
        return stages

    def _looks(self, *, score: bool) -> dict[str, list[Looked]]:
        """By shard, the clips of earlier runs that models of the score (or caption) stages still have to look at."""
        stages = self.recipe.score if score else self.recipe.caption
        steps, where = [step for stage in stages for step in stage.steps], "true" if score else self.where
        with contextlib.closing(connect(self.catalog)) as con:
            return looks_left(con, self.request.source.dataset, self.recipe, steps, where, self.kinds, only=self.planned.first, any_length=score)

    def _job(self, *, select: bool) -> Job:
        return Job(
            catalog=self.request.catalog,
            root=os.path.abspath(self.request.source.root),
            dataset=self.request.source.dataset,
            run_id=self.run_id,
            recipe=self.recipe,
            where=self.where,
            select=select,
            score_kinds=self.kinds,
        )

    def _phase(self, stages: list[Stage], *, looks: Mapping[str, list[Looked]] | None = None, encode: bool = False) -> None:
        with contextlib.closing(connect(self.catalog)) as con:
            found = shards_with_work(con, self.request.source.dataset, self.recipe, self.where if encode else "false", self.kinds, only=self.planned.first)
        works = {work.shard: work for work in found if encode or work.videos}
        for shard, clips in (looks or {}).items():
            works.setdefault(shard, ShardWork(shard=shard)).looks = clips
        if not works:
            return
        if not any(work.videos for work in works.values()):  # then no stage but that of the clips at hand has anything to do
            stages = [stage for stage in stages if isinstance(stage, Encode if encode else Look)]
        if not stages:
            return
        ordered = [works[shard] for shard in sorted(works)]
        total = totals(ordered, stages)
        log.info("%d shards with work: %s", len(works), ", ".join(f"{stage} {count}" for stage, count in total.items()))
        self.committer.consume(self.runner(ordered, stages, address=self.request.address, on_progress=shower(self.show, total)))

    def row(self, summary: Summary) -> dict[str, Any]:
        """This run's row of `runs`."""
        return {
            "command": self.request.command,
            "recipe": json.dumps(self.recipe.describe(), sort_keys=True, default=str),
            "predicate": self.predicate.text,
            "constants": json.dumps(self.constants),
            "versions": json.dumps({name: version(name) for name in PACKAGES}),
            "counts": json.dumps(summary.counts()),
            "stage_seconds": json.dumps(summary.stage_seconds),
            "seconds": summary.seconds,
            "peak_bytes": float(max((record.peak_bytes for record in self.committer.records), default=0)),
            "host": platform.node(),
        }


def at_address(works: Sequence[ShardWork], stages: Sequence[Stage], *, address: str | None, on_progress: Any) -> Iterator[Record]:
    """The stages on the Ray at `address`; on a private one without; or in this process, where it is HERE."""
    if address == HERE:
        return in_process(works, stages, address=address, on_progress=on_progress)
    from pipelines.run import stream  # a run with nothing to do imports no Ray

    return stream(works, stages, address=address, on_progress=on_progress)


def totals(works: Sequence[ShardWork], stages: Sequence[Stage]) -> dict[str, int]:
    """By stage, about how many videos or clips it has to do."""
    scan = sum(len(work.videos) for work in works)
    each = {"scan": scan, "encode": scan + sum(len(work.todo) for work in works), "look": scan + sum(len(work.looks) for work in works)}
    return {stage.name: each["scan"] if stage.name == "scan" else max(each["encode" if isinstance(stage, Encode) else "look"], 1) for stage in stages}


def shower(show: Show | None, total: Mapping[str, int]) -> Callable[[Any], None]:
    """What tells `show` of the progress of stages that have `total` to do."""

    def tell(progress: Any) -> None:
        if show is not None:  # how many clips a video holds is known once it is scanned
            show({stage: max(count, progress.done.get(stage, 0)) for stage, count in total.items()}, progress.done, progress.failed)

    return tell


def kinds_in(uri: str) -> dict[str, str]:
    """The scores that a catalog already holds, `value` or `label`; none where there is no catalog yet."""
    try:
        with contextlib.closing(connect(Catalog.open(uri), ["scores"])) as con:
            values, labels = filters(con)
    except CallError:  # no catalog there: `Catalog.open(create=True)` will say if none can be
        return {}
    return {**dict.fromkeys(values, "value"), **dict.fromkeys(labels, "label")}
