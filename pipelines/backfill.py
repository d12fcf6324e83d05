"""Steps over the clips of an existing catalog: filters, models that score or describe, encoders.

    vapdata backfill aesthetic --catalog catalog

Decodes only what the steps need. Work is counted in rows, as in a build: killed at any moment the same command goes
on, and what is there already, by the same settings, is not made again. Exercised by `pytest tests/pipelines/test_backfill.py`.
"""

import contextlib
import dataclasses
import json
import logging
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from catalogs.newest import literal
from catalogs.queries import check_predicate, connect, resolve, wide_columns
from catalogs.store import Catalog
from pipelines.commit import Committer
from pipelines.look_work import looks_left, signature
from pipelines.looking import Look, MeasureStage
from pipelines.prepare import PACKAGES, Show, at_address, kinds_in, shower, totals
from pipelines.recipes import EncodeStage, LookStage, Recipe
from pipelines.record import Record
from pipelines.stages import Encode, Job, Stage
from pipelines.summary import busy_seconds
from pipelines.work import MAX_ATTEMPTS, ShardWork, by_kind, shards_with_work
from vapdata import weights
from vapdata.clip import path_under
from vapdata.errors import CallError
from vapdata.step import Describer, Encoder, Filter, Judge, kind_of, step_name

log = logging.getLogger(__name__)

Step = Filter | Judge | Describer | Encoder


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `vapdata backfill`."""

    catalog: str
    steps: tuple[Step, ...]
    recipe: Recipe
    """Whose captions count, and at which grid encoders work."""
    where: str | None = None
    """Which clips: SQL over clips_wide. None is all of them; for encoders those that the newest build selected."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Where each dataset lies; others in data/<source>."""
    address: str | None = None
    command: str = "vapdata backfill"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a backfill did. Per step: to do before = done + failed + still to do."""

    catalog: str
    before: Mapping[str, int]
    done: Mapping[str, int]
    failed: Mapping[str, int]
    """For good, or out of attempts."""
    to_do: Mapping[str, int]
    absent: int
    """Videos whose file is not there: left out."""
    left: tuple[str, ...]
    """Shards that stopped and why."""
    stage_seconds: Mapping[str, float]
    seconds: float

    def lines(self) -> list[str]:
        """The summary as a terminal shows it."""
        lines = [
            f"{name:<24}{self.before[name]} clips to do = {self.done[name]} done + {self.failed[name]} failed + {self.to_do[name]} to do again"
            for name in self.before
        ]
        lines += [f"absent   {self.absent} videos have no file there; their clips were left out"] if self.absent else []
        lines += [f"left     shard {shard}" for shard in self.left]
        busy = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.stage_seconds.items())
        return [*lines, f"seconds  {busy or 'nothing to do'}; {self.seconds:.1f} in all", f"catalog  {self.catalog}"]

    def counts(self) -> dict[str, dict[str, int]]:
        """For the `runs` table. A clip that is to be tried again has failed in this run."""
        return {
            name: {"planned": self.before[name], "kept": self.done[name], "rejected": 0, "failed": self.failed[name] + self.to_do[name]} for name in self.before
        }


def backfill(request: Request, *, show: Show | None = None, runner: Callable[..., Iterator[Record]] | None = None) -> Summary:
    """Runs the steps over the clips that lack their rows. `runner` as for `prepare.build`.

    Raises CallError (no catalog, a bad predicate, a dataset that is elsewhere), MissingWeights, CatalogLocked,
    SettingsRefused or RunError.
    """
    began = time.time()
    catalog = Catalog.open(request.catalog)
    weights.require([weight for step in request.steps for weight in getattr(step, "weights", tuple)()])
    for step in request.steps:
        if kind_of(step) == "describer":
            step.ready()
    kinds = _kinds(request)
    columns = wide_columns(*by_kind(kinds))
    for where in {text for step in request.steps if (text := _where(catalog, request, step))}:
        check_predicate(where, columns)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{uuid.uuid4().hex[:8]}"
    with catalog.lock(request.command):
        catalog.recover()
        for step in request.steps:
            for product in _products(step):
                catalog.claim(product.name, product.settings, step=step_name(step))
        run = _Run(catalog, request, kinds, run_id, show, runner or at_address)
        before = run.left()
        absent = sum(run.dataset(*each) for each in _datasets(catalog, request, before))
        summary = _summary(catalog, request, run, before, absent, began)
        catalog.append({"runs": [run.row(summary)]}, run_id=run_id)
        if catalog.merge():
            catalog.recover()  # tensor files whose rows were all superseded go with them
    return summary


class _Run:
    """One backfill: what is left to do, dataset by dataset."""

    def __init__(self, catalog: Catalog, request: Request, kinds: Mapping[str, str], run_id: str, show: Show | None, runner: Any) -> None:
        self.catalog, self.request, self.kinds, self.run_id, self.show, self.runner = catalog, request, dict(kinds), run_id, show, runner
        self.constants: dict[str, Any] = {}
        self.committer = Committer(catalog, run_id)
        self.wheres = {step_name(step): self._resolved(_where(catalog, request, step)) for step in request.steps}
        encoders = tuple(step for step in request.steps if kind_of(step) == "encoder")
        stages = (EncodeStage(name="encode", encoders=encoders, gpus=_gpus(encoders)),) if encoders else ()
        self.recipe = dataclasses.replace(request.recipe, score=(), caption=(), encode=stages)

    def left(self) -> dict[str, dict[str, set[str]]]:
        """By dataset and step, the clips that lack rows."""
        with contextlib.closing(connect(self.catalog)) as con:
            names = [row[0] for row in con.execute("select distinct dataset from videos order by 1").fetchall()]
            return {name: _clips_of(self._works(con, name), self.request.steps) for name in names}

    def dataset(self, name: str, root: str) -> int:
        """Works on one dataset, whose files lie in `root`; gives how many videos have no file there."""
        with contextlib.closing(connect(self.catalog)) as con:
            works = self._works(con, name)
        absent = _leave_absent(works, root, [step for step in self.request.steps if _reads_frames(step)])
        works = [work for work in works if work.looks or work.todo or work.constants]
        stages = self._stages(name, root, works)
        if works:
            total = totals(works, stages)
            log.info("%s: %d shards with work: %s", name, len(works), ", ".join(f"{stage} {count}" for stage, count in total.items()))
            self.committer.consume(self.runner(works, stages, address=self.request.address, on_progress=shower(self.show, total)))
        return absent

    def row(self, summary: Summary) -> dict[str, Any]:
        """This run's row of `runs`. It states no predicate of its own: `vapdata status` shows the newest build's."""
        return {
            "command": self.request.command,
            "recipe": json.dumps({"steps": {step_name(step): _told(step) for step in self.request.steps}, "where": self.wheres}, sort_keys=True),
            "constants": json.dumps(self.constants),
            "versions": json.dumps({name: version(name) for name in PACKAGES}),
            "counts": json.dumps(summary.counts()),
            "stage_seconds": json.dumps(summary.stage_seconds),
            "seconds": summary.seconds,
            "peak_bytes": float(max((record.peak_bytes for record in self.committer.records), default=0)),
            "host": platform.node(),
        }

    def _resolved(self, where: str | None) -> str:
        if where is None:
            return "true"
        resolved = resolve(self.catalog, where)
        self.constants |= resolved.constants
        return resolved.text

    def _works(self, con: Any, dataset: str) -> list[ShardWork]:
        works: dict[str, ShardWork] = {}
        for step in self.request.steps:
            if kind_of(step) == "encoder":
                continue
            for shard, looks in looks_left(con, dataset, self.recipe, [step], self.wheres[step_name(step)], self.kinds).items():
                _add(works.setdefault(shard, ShardWork(shard=shard)), looks)
        if self.recipe.encoders:
            where = self.wheres[step_name(self.recipe.encoders[0])]
            for work in shards_with_work(con, dataset, self.recipe, where, self.kinds, only=None):
                mine = works.setdefault(work.shard, ShardWork(shard=work.shard))
                mine.todo, mine.constants = work.todo, work.constants
        return [works[shard] for shard in sorted(works)]

    def _stages(self, dataset: str, root: str, works: Sequence[ShardWork]) -> list[Stage]:
        job = Job(
            catalog=self.request.catalog,
            root=os.path.abspath(root),
            dataset=dataset,
            run_id=self.run_id,
            recipe=self.recipe,
            where="true",
            select=False,
            score_kinds=self.kinds,
        )
        wanted = {name for work in works for look in work.looks for name in look.steps}
        watching = [step for step in self.request.steps if step_name(step) in wanted]
        filters = tuple(step for step in watching if kind_of(step) == "filter")
        lookers = tuple(step for step in watching if kind_of(step) in ("judge", "describer"))
        stages: list[Stage] = [MeasureStage(job=job, filters=filters)] if filters else []
        stages += [Look(job=job, stage=LookStage(name="look", steps=lookers, gpus=_gpus(lookers)))] if lookers else []
        encode = self.recipe.encode if any(work.todo or work.constants for work in works) else ()
        return [*stages, *(Encode(job=job, stage=stage) for stage in encode)]


def _where(catalog: Catalog, request: Request, step: Step) -> str | None:
    """The predicate of a step's clips; None takes all."""
    if request.where is not None or kind_of(step) != "encoder":
        return request.where
    with contextlib.closing(connect(catalog, ["runs"])) as con:
        row = con.execute('select predicate from runs where predicate is not null order by "commit" desc, created_at desc limit 1').fetchone()
    return row[0] if row else None


def _kinds(request: Request) -> dict[str, str]:
    """Every score that a predicate may name: the catalog's, and the steps' own."""
    own = {name: kind for step in request.steps if kind_of(step) in ("filter", "judge") for name, kind in step.writes().items()}
    return {**kinds_in(request.catalog), **own}


def _products(step: Step) -> tuple[Any, ...]:
    return step.products() if kind_of(step) in ("judge", "encoder") else ()


def _told(step: Step) -> str:
    return signature(step) if kind_of(step) in ("filter", "judge") else repr(step)


def _gpus(steps: Sequence[Step]) -> float:
    """GPUs per worker, where there are any: one for models that live here, so that each is loaded once per GPU and not once per CPU."""
    needed = [weight for step in steps for weight in getattr(step, "weights", tuple)()]
    return 1.0 if any(not weights.is_tiny(weight) for weight in needed) else 0.0


def _reads_frames(step: Step) -> bool:
    return step.fps > 0 if kind_of(step) == "filter" else bool(step.reads & {"frames", "first"})


def _add(work: ShardWork, looks: Sequence[Any]) -> None:
    """Adds one step's clips to a shard's work: a clip that several steps lack is one piece of it."""
    known = {each.clip["clip_id"]: each for each in work.looks}
    for each in looks:
        if (mine := known.get(each.clip["clip_id"])) is None:
            work.looks.append(each)
        else:
            mine.steps = (*mine.steps, *each.steps)
            mine.caption = mine.caption or each.caption


def _clips_of(works: Sequence[ShardWork], steps: Sequence[Step]) -> dict[str, set[str]]:
    """By step, the clips that `works` hold for it."""
    found: dict[str, set[str]] = defaultdict(set)
    for work in works:
        for look in work.looks:
            for name in look.steps:
                found[name].add(look.clip["clip_id"])
        for step in steps:
            if kind_of(step) == "encoder":
                own = {product.name for product in step.products()}
                found[step_name(step)] |= {each.clip["clip_id"] for each in work.todo if own & set(each.products)}
    return dict(found)


def _datasets(catalog: Catalog, request: Request, left: Mapping[str, Mapping[str, set[str]]]) -> Iterator[tuple[str, str]]:
    """(dataset, root) of those with work; made videos lie in the catalog. Constants, which need no file, go with the first."""
    with contextlib.closing(connect(catalog)) as con:
        rows = con.execute("select dataset, any_value(source), bool_or(parent_clip_id is not null) from videos group by 1 order by 1").fetchall()
    for dataset, source, made in rows:
        yield dataset, catalog.files.address("media") if made else request.roots.get(dataset, os.path.join("data", source))


def _leave_absent(works: Sequence[ShardWork], root: str, watching: Sequence[Step]) -> int:
    """Takes clips without file out of the work; gives how many videos that are. Raises CallError when no file is there at all."""
    names = {step_name(step) for step in watching}
    looks = [each for work in works for each in work.looks if names & set(each.steps)]
    todo = [each for work in works for each in work.todo if any(kind_of(step) == "encoder" for step in watching)]
    paths = {each.clip["video_id"]: path_under(root, each.clip["uri"]) for each in (*looks, *todo)}
    absent = {video for video, path in paths.items() if not os.path.exists(path)}
    if paths and len(absent) == len(paths):
        dataset = next(iter(paths)).partition("/")[0]
        raise CallError(f"{root}: no file of dataset {dataset!r} is there, and its clips are to be looked at. Type --root {dataset}=PATH")
    if absent:
        for work in works:
            work.looks = [each for each in work.looks if each.clip["video_id"] not in absent]
            work.todo = [each for each in work.todo if each.clip["video_id"] not in absent]
    return len(absent)


def _summary(catalog: Catalog, request: Request, run: _Run, before: Mapping[str, Mapping[str, set[str]]], absent: int, began: float) -> Summary:
    after = run.left()
    names = [step_name(step) for step in request.steps]

    def clips(left: Mapping[str, Mapping[str, set[str]]], name: str) -> set[str]:
        return set().union(*(each.get(name, set()) for each in left.values()))

    first, last = ({name: clips(left, name) for name in names} for left in (before, after))
    with contextlib.closing(connect(catalog)) as con:
        rows = con.execute(
            f"select step, clip_id from failures where (permanent or attempts >= {MAX_ATTEMPTS}) and step in ({', '.join(map(literal, names))})"
        ).fetchall()
    broken: dict[str, set[str]] = defaultdict(set)
    for step, clip in rows:
        broken[step].add(clip)
    failed = {name: len(first[name] & broken[name] - last[name]) for name in names}
    return Summary(
        catalog=catalog.uri,
        before={name: len(first[name]) for name in names},
        done={name: len(first[name] - last[name]) - failed[name] for name in names},
        failed=failed,
        to_do={name: len(first[name] & last[name]) for name in names},
        absent=absent,
        left=tuple(f"{record.shard}: {record.stopped}" for record in run.committer.records if record.stopped),
        stage_seconds=busy_seconds(run.committer.records),
        seconds=time.time() - began,
    )
