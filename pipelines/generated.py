"""Planned rows of `videos` to files that an image-to-video model with a LoRA makes: what `render.py` renders, this generates.

One stream of shards per model, so that a worker loads one model and keeps it; a shard is one condition, and shards of one
LoRA follow each other. A video takes minutes where a rendered one takes a second: one that is in place already, left by a
run that was killed before its shard was committed, is taken as it is. Exercised by `pytest tests/pipelines/test_generated.py`.
"""

import dataclasses
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.record import Record
from pipelines.render_work import STEP, Maker
from pipelines.stages import Job, OpenStage, Stage
from pipelines.work import ShardWork
from vapdata.conditions.lora import Lora, LoraCondition
from vapdata.conditions.lora_files import Model
from vapdata.conditions.lora_pipeline import Pipeline, require_peft
from vapdata.errors import CallError, ClipError
from vapdata.video_file import write

log = logging.getLogger(__name__)

Run = Callable[[Sequence[ShardWork], Sequence[Stage], int], Iterator[Record]]
"""Shards, stages, and how many videos were done before; gives the records."""


@dataclass(frozen=True, kw_only=True)
class GenerateStage:
    """Rows of `videos` that are planned, to video files, by one model."""

    job: Job
    provider: Lora
    model: Model
    roots: Mapping[str, str]
    name: str = STEP
    cpus: float = 1.0
    gpus: float = 1.0

    def open(self) -> OpenStage:
        """Loads the model."""
        return OpenGenerate(self)


def generate_all(provider: Lora, job: Job, roots: Mapping[str, str], works: Sequence[ShardWork], run: Run) -> Iterator[Record]:
    """The record of each shard, model by model. Says at the end how many videos were made with weights offloaded.

    Raises CallError, after the record that it came up in, for a LoRA that does not fit its model, and where peft is missing.
    """
    require_peft()
    programs = provider.programs()

    def of(work: ShardWork) -> LoraCondition:
        return programs[work.videos[0]["condition"]]

    offloaded: Counter[str] = Counter()
    before = 0
    ordered = sorted(works, key=lambda work: (of(work).model.sha256, of(work).lora.sha256, of(work).name, work.shard))
    for _, mine in itertools.groupby(ordered, key=lambda work: of(work).model.sha256):
        shards = list(mine)
        stage = GenerateStage(job=job, provider=provider, model=of(shards[0]).model, roots=roots)
        for record in run(shards, [stage], before):
            offloaded.update(json.loads(row["parameters"])["made"]["offload"] for row in record.rows["videos"])
            yield record
            if record.refused is not None:
                raise CallError(record.refused)
        before += sum(len(work.videos) for work in shards)
    for how in ("model", "sequential"):
        if offloaded[how]:
            log.warning("lora: the GPU's memory ran out; %d videos were made with %s offload, which is slower. Take a smaller size or a larger GPU", offloaded[how], how)


class OpenGenerate(Maker):
    """GenerateStage at work."""

    def __init__(self, stage: GenerateStage) -> None:
        super().__init__(stage.job, stage.provider.name, stage.roots)
        self.programs = stage.provider.programs()
        self.model = stage.model
        self.device = stage.provider.device
        self.pipeline = Pipeline(self.model, self.device)

    def made(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes and writes one video, or takes the one that is there."""
        condition, path = self.programs[row["condition"]], self.file(row)
        prompt = condition.asked(row["neutral_caption"])
        kept = self._kept(path)
        offload = "unknown" if kept else self._make(condition, row, prompt, path)
        made = {"prompt": prompt, "pipeline": condition.model.pipeline, "offload": offload}
        license = f"{condition.license}; of the picture: {row['license']}" if row["license"] else condition.license
        parameters = json.dumps({**json.loads(row["parameters"]), "made": made}, sort_keys=True)
        return {**(kept or self.told(path)), "license": license, "parameters": parameters}

    def _kept(self, path: str) -> dict[str, Any] | None:
        """A video that an earlier run finished and did not commit; None where there is none that decodes."""
        try:
            return self.told(path) if os.path.exists(path) else None
        except ClipError:
            return None

    def _make(self, condition: LoraCondition, row: Mapping[str, Any], prompt: str, path: str) -> str:
        """Writes the video; says what was offloaded."""
        origin, sampling = row["origin"], condition.sampling(self.job.recipe.sampling)
        grid = dataclasses.replace(self.job.recipe.sampling, height=sampling.height, width=sampling.width)  # the recipe says how long a clip must be
        frames = self.sources.sample(self.source(row), origin["start_s"], origin["end_s"], grid, folder_fps=origin["folder_fps"])
        write(path, iter(self.pipeline.make(condition, np.ascontiguousarray(frames[0]), prompt, row["seed"], sampling)), sampling.fps)
        return self.pipeline.offload

