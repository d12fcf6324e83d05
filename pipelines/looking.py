"""What a worker does to clips that steps look at: one decode, then every step that still wants the clip.

`LookStage` serves models (scores, captions, embeddings) from a few frames; `MeasureStage` runs filters of the scan over
clips that are already known. Exercised by `pytest tests/pipelines/test_backfill.py`, and by builds whose recipe has them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.look_work import reads_caption, signature
from pipelines.recipes import LookStage
from pipelines.record import Record, caption_row, score_row
from pipelines.stages import MAX_DEATHS, Job, OpenStage, Tick, Worker, died, named
from pipelines.work import Looked, choose_caption
from vapdata.clip import Caption, Clip, Sample, path_under
from vapdata.decoder import Decoder
from vapdata.errors import CallError, ClipError
from vapdata.scan import fit_for, measure
from vapdata.step import Cell, Described, Filter, Judged, kind_of, step_name


@dataclass(frozen=True, kw_only=True)
class Look:
    """Clips to scores, captions and tensors, by models that are shown a few frames."""

    job: Job
    stage: LookStage
    fresh: Literal["all", "selected"] = "all"
    """Which freshly scanned clips are looked at: all (scores), or those that the predicate selects (captions)."""
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
        """Opens catalog, models and decoder."""
        return _OpenLook(self)


@dataclass(frozen=True, kw_only=True)
class MeasureStage:
    """Clips that are known to the scores of filters of the scan."""

    job: Job
    filters: tuple[Filter, ...]
    name: str = "measure"
    cpus: float = 1.0
    gpus: float = 0.0

    def open(self) -> OpenStage:
        """Opens catalog, filters and decoder."""
        return _OpenMeasure(self)


class _OpenLook(Worker):
    def __init__(self, stage: Look):
        import torch

        super().__init__(stage.name, stage.job)
        torch.set_num_threads(stage.stage.threads)
        self.fresh = stage.fresh
        self.batch = stage.stage.batch
        self.decoder = Decoder()
        self.steps = {step_name(step): step for step in stage.stage.steps}
        self.opened = {name: step.open(stage.device) for name, step in self.steps.items()}
        self.signatures = {name: signature(step) for name, step in self.steps.items() if kind_of(step) == "judge"}
        self.products = {product.name: product for step in stage.stage.steps if kind_of(step) == "judge" for product in step.products()}

    def close(self) -> None:
        """Lets go of models and the decoding process."""
        for opened in self.opened.values():
            opened.close()
        super().close()

    def work(self, record: Record, tick: Tick) -> None:
        cells: dict[str, list[Cell]] = defaultdict(list)
        old = [each for each in record.work.looks if set(each.steps) & set(self.steps)]
        todo = sorted([*old, *self._fresh(record)], key=lambda each: each.clip["clip_id"])
        for start in range(0, len(todo), self.batch):
            self._batch(record, todo[start : start + self.batch], cells, tick)
        for name, product in self.products.items():
            self.store(record, product, cells[name])

    def _fresh(self, record: Record) -> list[Looked]:
        """What this run scanned, each clip with the steps that apply."""
        if self.fresh == "selected":
            self.select(record)
        captions: dict[str, list[Caption]] = defaultdict(list)
        for row in record.rows["captions"]:
            captions[row["clip_id"]].append(Caption(text=row["text"], captioner=row["captioner"], role=row["role"]))
        found = []
        for clip in record.fresh if self.fresh == "all" else record.chosen:
            caption = choose_caption(self.job.recipe, captions[clip["clip_id"]])
            steps = tuple(name for name, step in self.steps.items() if caption is not None or not reads_caption(step))
            found.append(Looked(clip=clip, steps=steps, caption=caption))
        return [each for each in found if each.steps]

    def _batch(self, record: Record, todo: Sequence[Looked], cells: dict[str, list[Cell]], tick: Tick) -> None:
        shown: list[tuple[Looked, dict[str, Sample]]] = []
        for each in todo:
            with self.noted(record, each.clip["clip_id"]) as deaths:
                try:
                    if deaths >= MAX_DEATHS:
                        raise died(each.clip["uri"], self.name, deaths)
                    samples = self._samples(each)
                    if deaths:  # alone, so that its neighbours are not taken down with it
                        tick(self.name, 1, self._ask(record, [(each, samples)], cells))
                        continue
                except Exception as error:  # noqa: BLE001 - one clip's trouble, whatever it is, is its own row
                    for name in self._mine(each):
                        self._fail(record, name, each, error)
                    tick(self.name, 1, 1)
                    continue
            shown.append((each, samples))
        for each, _ in shown:
            self.catalog.note(record.shard, self.name, each.clip["clip_id"])
        failed = self._ask(record, shown, cells)
        for each, _ in shown:
            self.catalog.clear(record.shard, self.name, each.clip["clip_id"])
        if shown:
            tick(self.name, len(shown), failed)

    def _mine(self, each: Looked) -> list[str]:
        return [name for name in self.steps if name in each.steps]

    def _samples(self, each: Looked) -> dict[str, Sample]:
        """By step, what it is shown: one decode for all, the very same arrays for equal looks."""
        clip, names = each.clip, self._mine(each)
        looks = list(dict.fromkeys(self.steps[name].look for name in names))
        images = self.decoder.look(path_under(self.job.root, clip["uri"]), clip["start_s"], clip["end_s"], looks, folder_fps=clip["folder_fps"])
        shown = {
            look: Sample(clip_id=clip["clip_id"], frames=frames, caption=each.caption, times_s=tuple(look.times(clip["end_s"] - clip["start_s"])))
            for look, frames in zip(looks, images, strict=True)
        }
        return {name: shown[self.steps[name].look] for name in names}

    def _ask(self, record: Record, shown: Sequence[tuple[Looked, Mapping[str, Sample]]], cells: dict[str, list[Cell]]) -> int:
        """Asks every step about the clips that it still has to look at; gives how many clips failed."""
        failed: set[str] = set()
        for name, step in self.steps.items():
            mine = [(each, samples[name]) for each, samples in shown if name in samples]
            for start in range(0, len(mine), step.batch):
                group = mine[start : start + step.batch]
                answers = self._answers(name, [sample for _, sample in group])
                for each, _ in group:
                    answer = answers[each.clip["clip_id"]]
                    self._gather(record, name, each, answer, cells)
                    if isinstance(answer, Exception) or answer.failure is not None:
                        failed.add(each.clip["clip_id"])
        return len(failed)

    def _answers(self, name: str, samples: Sequence[Sample]) -> dict[str, Judged | Described | Exception]:
        """The step's answer about each clip, or why there is none: when a batch raises, each is tried alone."""
        opened = self.opened[name]
        try:
            answers = opened.judge(samples) if kind_of(self.steps[name]) == "judge" else opened.describe(samples)
            return {sample.clip_id: answers.get(sample.clip_id, _silent(name, sample.clip_id)) for sample in samples}
        except CallError:
            raise  # no clip can succeed: a wrong key or address
        except Exception as error:  # noqa: BLE001 - handed on to become the clip's row
            if len(samples) == 1:
                return {samples[0].clip_id: error}
            return {clip: answer for sample in samples for clip, answer in self._answers(name, [sample]).items()}

    def _gather(self, record: Record, name: str, each: Looked, answer: Judged | Described | Exception, cells: dict[str, list[Cell]]) -> None:
        clip = each.clip["clip_id"]
        if isinstance(answer, Exception):
            self._fail(record, name, each, answer)
            return
        if isinstance(answer, Judged):
            told = each.caption if reads_caption(self.steps[name]) else None
            record.rows["scores"] += [score_row(clip, score, record.shard, self.signatures[name], told) for score in answer.scores]
            for cell in answer.cells:
                cells[cell.product].append(cell)
        else:
            record.rows["captions"] += [caption_row(clip, caption, record.shard) for caption in answer.captions]
        if answer.failure is not None:
            self._fail(record, name, each, answer.failure)

    def _fail(self, record: Record, name: str, each: Looked, error: Exception) -> None:
        record.fail(name, named(error, each.clip["uri"]), video_id=each.clip["video_id"], clip_id=each.clip["clip_id"])


class _OpenMeasure(Worker):
    def __init__(self, stage: MeasureStage):
        super().__init__(stage.name, stage.job)
        self.decoder = Decoder()
        self.filters = {step.name: (step, step.open()) for step in stage.filters}

    def work(self, record: Record, tick: Tick) -> None:
        for each in sorted(record.work.looks, key=lambda each: each.clip["clip_id"]):
            before = len(record.rows["failures"])
            with self.noted(record, each.clip["clip_id"]) as deaths:
                try:
                    if deaths >= MAX_DEATHS:
                        raise died(each.clip["uri"], self.name, deaths)
                    self._measure(record, each)
                except Exception as error:  # noqa: BLE001 - one clip's trouble, whatever it is, is its own row
                    for name in each.steps:
                        self._fail(record, name, each, error)
            tick(self.name, 1, int(len(record.rows["failures"]) > before))

    def _measure(self, record: Record, each: Looked) -> None:
        clip = clip_of(each.clip)
        path = path_under(self.job.root, each.clip["uri"])
        chosen = [self.filters[name] for name in self.filters if name in each.steps]
        watched = any(step.fps > 0 for step, _ in chosen)
        fit = fit_for([step for step, _ in chosen])
        frames = self.decoder.frames(path, fit, clip.start_s, clip.end_s, folder_fps=each.clip["folder_fps"]) if watched else ()
        scores, failures = measure(frames, clip, chosen)
        by = {score: signature(step) for step, _ in chosen for score in step.writes()}
        record.rows["scores"] += [score_row(clip.clip_id, score, record.shard, by[score.filter]) for score in scores]
        for name, error in failures:
            self._fail(record, name, each, error)

    def _fail(self, record: Record, name: str, each: Looked, error: Exception) -> None:
        record.fail(name, named(error, each.clip["uri"]), video_id=each.clip["video_id"], clip_id=each.clip["clip_id"])


def clip_of(row: Mapping[str, Any]) -> Clip:
    """A row of `clips` as the clip that the scan saw."""
    names = ("clip_id", "video_id", "source", "split", "start_s", "end_s", "frames", "fps", "width", "height", "codec", "whole", "truncated")
    return Clip(**{name: row[name] for name in names})


def _silent(name: str, clip_id: str) -> ClipError:
    return ClipError(f"{name} gave no answer about {clip_id}, wanted one. Correct the step.")
