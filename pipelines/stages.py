"""What a worker does to a shard's record: scan its videos, encode its clips. Knows nothing of Ray.

Every clip about to be worked on is noted beside the catalog first: a clip that took its worker down twice becomes
a `failures` row, and its shard goes on. Exercised by `pytest tests/pipelines/test_stages.py`, and by every build.
"""

import errno
import io
import logging
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
from PIL import Image

from catalogs.store import Catalog, settings_sha256
from catalogs.tables import TABLES
from catalogs.tensors import pack
from pipelines.recipes import EncodeStage, Recipe
from pipelines.record import Record, caption_row, clip_row, score_row, tensor_row, video_of
from pipelines.work import CONSTANTS, Todo, choose_caption, needs, selected_now
from vapdata.clip import Caption, Clip, Sample, Score, Video, path_under
from vapdata.decoder import Decoder
from vapdata.errors import CallError, ClipError, WorkerDied
from vapdata.scan import Scanner, fit_for, source_scores
from vapdata.step import Cell, Encoder, OpenEncoder, Product, step_name

MAX_DEATHS = 2

THUMB = Product(name="thumb-256", table="frames", model_id="pillow", revision="1", dtype="webp", settings={"long_side": 256, "format": "webp"})

Tick = Callable[[str, int, int], None]
"""Called as tick(stage, done, failed) after each piece of work."""

log = logging.getLogger(__name__)


@runtime_checkable
class OpenStage(Protocol):
    """A stage with everything loaded."""

    def __call__(self, record: Record, tick: Tick) -> Record:
        """Does its part on one shard's record."""
        ...

    def close(self) -> None:
        """Lets go of processes and files."""
        ...


@runtime_checkable
class Stage(Protocol):
    """One step of the shard's way. Picklable; `open()` loads what it needs on the worker."""

    @property
    def name(self) -> str:
        """Name in progress lines and counts."""
        ...

    @property
    def cpus(self) -> float:
        """CPUs per worker."""
        ...

    @property
    def gpus(self) -> float:
        """GPUs per worker, where there are any."""
        ...

    def open(self) -> OpenStage:
        """Loads what it needs, on the worker."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every stage of one run knows."""

    catalog: str
    root: str
    dataset: str
    run_id: str
    recipe: Recipe
    where: str
    select: bool
    """Whether freshly scanned clips are selected on the worker; False when the predicate spans the whole catalog."""
    score_kinds: dict[str, str]
    """Every score a predicate may name, the dataset's own included."""


@dataclass(frozen=True, kw_only=True)
class ScanStage:
    """Videos to clips, scores, source captions and thumbnails."""

    job: Job
    name: str = "scan"
    cpus: float = 1.0
    gpus: float = 0.0

    def open(self) -> OpenStage:
        """Opens catalog, filters and decoder."""
        return _OpenScan(self)


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Selected clips to tensors."""

    job: Job
    stage: EncodeStage
    device: str | None = None

    @property
    def name(self) -> str:
        """The stage's name in progress lines and counts."""
        return self.stage.name

    @property
    def cpus(self) -> float:
        """CPUs per worker."""
        return self.stage.cpus

    @property
    def gpus(self) -> float:
        """GPUs per worker."""
        return self.stage.gpus

    def open(self) -> OpenStage:
        """Opens catalog, encoders and decoder."""
        return _OpenEncode(self)


class Worker:
    """What stages share: the catalog, the time and memory they took, how a shard stops."""

    def __init__(self, name: str, job: Job):
        self.name = name
        self.job = job
        self.catalog = Catalog.open(job.catalog)
        self.decoder: Decoder | None = None
        captioner, role = job.recipe.use_captions[0]
        self.untold = Caption(text="", captioner=captioner, role=role)

    def __call__(self, record: Record, tick: Tick) -> Record:
        """Does this stage's part, and notes the time and memory that it took."""
        began = time.time()
        if record.stopped is None:
            try:
                self.work(record, tick)
            except Exception as error:  # an unexpected exception ends no build: the shard is reported and left
                log.exception("shard %s stopped in %s", record.shard, self.name)
                record.stopped = f"{self.name}: {type(error).__name__}: {error}"
                record.refused = str(error) if isinstance(error, CallError) else None
                cause = error if isinstance(error, OSError) else error.__cause__
                record.fatal = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        record.spans[self.name] = (began, time.time())
        record.peak_bytes = max(record.peak_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return record

    def close(self) -> None:
        """Ends the decoding process, if there is one."""
        if self.decoder is not None:
            self.decoder.close()

    def work(self, record: Record, tick: Tick) -> None:
        """Does this stage's part."""
        raise NotImplementedError

    @contextmanager
    def noted(self, record: Record, item: str) -> Iterator[int]:
        """Notes `item` for as long as it is worked on; gives how often it has taken its worker down before."""
        deaths = self.catalog.attempts(record.shard, self.name, item)
        if deaths < MAX_DEATHS:
            self.catalog.note(record.shard, self.name, item)
        yield deaths
        if deaths < MAX_DEATHS:  # what is given up keeps its note: a retry of the shard must not try it again
            self.catalog.clear(record.shard, self.name, item)

    def select(self, record: Record) -> None:
        """Moves what this run scanned and the predicate selects from `fresh` to `chosen`; once per record, by whichever stage comes first."""
        fresh, record.fresh = record.fresh, []
        if not fresh or not self.job.select:
            return
        scores = pa.Table.from_pylist([{"commit": 0, **row} for row in record.rows["scores"]], schema=TABLES["scores"].schema)
        clips = [{"commit": 0, **clip} for clip in fresh]
        chosen = selected_now(self.job.recipe, self.job.where, clips, scores, self.job.score_kinds, TABLES["clips"].schema)
        record.chosen += [clip for clip in fresh if clip["clip_id"] in chosen]

    def store(self, record: Record, product: Product, cells: Sequence[Cell]) -> None:
        """Writes the cells into one tensor file and adds their rows."""
        if not cells:
            return
        settings = self.catalog.settings(product.name)
        packed = [(cell.clip_id, cell.data if isinstance(cell.data, bytes) else pack(cell.data, product.dtype)) for cell in cells]
        part = self.catalog.next_part(product.name, record.shard)
        file = self.catalog.write_tensors(product.name, record.shard, part, packed)
        digest = settings_sha256(settings or product.settings)
        record.rows[product.table] += [
            tensor_row(cell, product, untold=self.untold, settings_sha256=digest, shard=record.shard, file=file, row_group=group)
            for group, cell in enumerate(cells)
        ]


class _OpenScan(Worker):
    def __init__(self, stage: ScanStage):
        super().__init__(stage.name, stage.job)
        self.decoder = Decoder()
        self.filters = stage.job.recipe.scan
        self.fit = fit_for(self.filters, pixels=True)
        self.scanner = Scanner(cuts=stage.job.recipe.cuts, filters=self.filters)
        self.captioners = [captioner.open() for captioner in stage.job.recipe.captions]

    def work(self, record: Record, tick: Tick) -> None:
        thumbs: list[Cell] = []
        for row in record.work.videos:
            before = len(record.rows["failures"])
            with self.noted(record, row["video_id"]) as deaths:
                if deaths >= MAX_DEATHS:
                    record.fail("scan", died(row["uri"], "scan", deaths), video_id=row["video_id"], clip_id=None)
                else:
                    thumbs += self._video(record, row)
            tick(self.name, 1, int(len(record.rows["failures"]) > before))
        self.store(record, THUMB, thumbs)

    def _video(self, record: Record, row: dict[str, Any]) -> list[Cell]:
        video = video_of(row)
        path = path_under(self.job.root, video.uri)
        try:
            probe = self.decoder.probe(path, folder_fps=video.folder_fps)
            frames = self.decoder.frames(path, self.fit, video.start_s or 0.0, video.end_s, folder_fps=video.folder_fps)
            found = self.scanner.scan(frames, probe, video)
        except Exception as error:  # noqa: BLE001 - one video's trouble, whatever it is, is its own row
            record.fail("scan", named(error, video.uri), video_id=video.video_id, clip_id=None)
            return []
        if found.failure is not None:
            record.fail("scan", named(found.failure, video.uri), video_id=video.video_id, clip_id=None)
        for clip_id, step, error in found.clip_failures:
            record.fail(step, named(error, video.uri), video_id=video.video_id, clip_id=clip_id)
        for clip in found.clips:
            self._gather(record, video, clip, found.scores.get(clip.clip_id, []))
        return [_thumb(clip_id, data) for clip_id, data in found.thumbs.items()]

    def _gather(self, record: Record, video: Video, clip: Clip, scores: Sequence[Score]) -> None:
        row = clip_row(clip, record.shard)
        record.rows["clips"].append(row)
        record.fresh.append({**row, "uri": video.uri, "folder_fps": video.folder_fps})
        by = {name: repr(step) for step in self.filters for name in step.writes()}
        own = source_scores(video) if clip.whole else []  # the dataset's numbers speak of the whole video
        record.rows["scores"] += [score_row(clip.clip_id, each, record.shard, by.get(each.filter, video.dataset)) for each in (*scores, *own)]
        for caption_of in self.captioners:
            record.rows["captions"] += [caption_row(clip.clip_id, caption, record.shard) for caption in caption_of(video, clip)]


class _OpenEncode(Worker):
    def __init__(self, stage: Encode):
        import torch

        super().__init__(stage.name, stage.job)
        torch.set_num_threads(stage.stage.threads)
        self.recipe = stage.job.recipe
        self.batch = stage.stage.batch
        self.reads_frames = stage.stage.reads_frames
        self.decoder = Decoder() if self.reads_frames else None
        self.encoders: list[tuple[Encoder, OpenEncoder]] = [(encoder, encoder.open(stage.device)) for encoder in stage.stage.encoders]
        self.own = {product.name for encoder, _ in self.encoders for product in encoder.products()}

    def work(self, record: Record, tick: Tick) -> None:
        self._take(record)
        cells: dict[str, list[Cell]] = {name: [] for name in sorted(self.own)}
        todo = sorted((each for each in record.todo if self.own & set(each.products)), key=lambda each: each.clip["clip_id"])
        for start in range(0, len(todo), self.batch):
            self._batch(record, todo[start : start + self.batch], cells, tick)
        if record.shard == CONSTANTS:
            for _, opened in self.encoders:
                for cell in opened.constants():
                    if cell.product in record.work.constants:
                        cells[cell.product].append(cell)
        for encoder, _ in self.encoders:
            for product in encoder.products():
                self.store(record, product, cells[product.name])

    def _take(self, record: Record) -> None:
        """Turns what was selected into what is encoded; once per record, by whichever encode stage comes first."""
        record.todo += record.work.todo
        record.work.todo = []
        self.select(record)
        chosen, record.chosen = record.chosen, []
        captions: dict[str, list[Caption]] = {}
        for row in record.rows["captions"]:
            captions.setdefault(row["clip_id"], []).append(Caption(text=row["text"], captioner=row["captioner"], role=row["role"]))
        for clip in chosen:
            caption = choose_caption(self.recipe, captions.get(clip["clip_id"], []))
            record.todo.append(Todo(clip=clip, products=needs(self.recipe, caption), caption=caption))

    def _batch(self, record: Record, todo: Sequence[Todo], cells: dict[str, list[Cell]], tick: Tick) -> None:
        samples: list[tuple[Todo, Sample]] = []
        for each in todo:
            with self.noted(record, each.clip["clip_id"]) as deaths:
                try:
                    if deaths >= MAX_DEATHS:
                        raise died(each.clip["uri"], self.name, deaths)
                    sample = self._sample(each)
                    if deaths:  # alone, so that its neighbours are not taken down with it
                        tick(self.name, 1, self._encode(record, [(each, sample)], cells))
                        continue
                except Exception as error:  # noqa: BLE001 - as for videos
                    self._fail(record, each, error)
                    tick(self.name, 1, 1)
                    continue
            samples.append((each, sample))
        for each, _ in samples:
            self.catalog.note(record.shard, self.name, each.clip["clip_id"])
        failed = self._encode(record, samples, cells)
        for each, _ in samples:
            self.catalog.clear(record.shard, self.name, each.clip["clip_id"])
        if samples:
            tick(self.name, len(samples), failed)

    def _sample(self, each: Todo) -> Sample:
        frames = None
        if self.decoder is not None and self._wants_frames(each):
            path = path_under(self.job.root, each.clip["uri"])
            span = (each.clip["start_s"], each.clip["end_s"])
            frames = self.decoder.sample(path, *span, self.recipe.sampling, folder_fps=each.clip["folder_fps"])
        return Sample(clip_id=each.clip["clip_id"], frames=frames, caption=each.caption)

    def _wants_frames(self, each: Todo) -> bool:
        return any(encoder.reads & {"frames", "first"} and _wanted(encoder, each) for encoder, _ in self.encoders)

    def _encode(self, record: Record, samples: Sequence[tuple[Todo, Sample]], cells: dict[str, list[Cell]]) -> int:
        """Runs every encoder on those of `samples` that need it; gives how many clips failed."""
        failed: set[str] = set()
        for encoder, opened in self.encoders:
            mine = [(each, sample) for each, sample in samples if _wanted(encoder, each)]
            for (each, _), made in zip(mine, self._run(opened, [sample for _, sample in mine]), strict=True):
                if isinstance(made, Exception):
                    record.fail(step_name(encoder), named(made, each.clip["uri"]), video_id=each.clip["video_id"], clip_id=each.clip["clip_id"])
                    failed.add(each.clip["clip_id"])
                    continue
                for cell in made:
                    if cell.product in each.products:
                        cells[cell.product].append(cell)
        return len(failed)

    def _run(self, opened: OpenEncoder, samples: Sequence[Sample]) -> list[list[Cell] | Exception]:
        """The cells of each sample, or why it has none: when a batch raises, each is tried alone."""
        if not samples:
            return []
        try:
            return list(opened.encode(samples))
        except Exception as error:  # noqa: BLE001 - handed on to become the clip's row
            if len(samples) == 1:
                return [error]
            return [made for sample in samples for made in self._run(opened, [sample])]

    def _fail(self, record: Record, each: Todo, error: Exception) -> None:
        for encoder, _ in self.encoders:
            if _wanted(encoder, each):
                record.fail(step_name(encoder), named(error, each.clip["uri"]), video_id=each.clip["video_id"], clip_id=each.clip["clip_id"])


def _wanted(encoder: Encoder, each: Todo) -> bool:
    return any(product.name in each.products for product in encoder.products())


def died(uri: str, step: str, deaths: int) -> WorkerDied:
    """The error of a file that takes its workers down."""
    return WorkerDied(f"{uri}: took its worker process down {deaths} times in {step}; look at the file, then try again with: vapdata retry")


def named(error: Exception, uri: str) -> Exception:
    """`error` itself when its message names the file, else the same class with the file in front."""
    if uri in str(error) or not isinstance(error, ClipError):
        return error
    return type(error)(f"{uri}: {error}")


def _thumb(clip_id: str, data: bytes) -> Cell:
    width, height = Image.open(io.BytesIO(data)).size
    return Cell(product=THUMB.name, clip_id=clip_id, data=data, shape=(height, width, 3))
