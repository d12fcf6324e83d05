"""What a worker does to a shard of planned videos: decodes each one's source, makes it, writes it whole or not at all.

Exercised by `pytest tests/pipelines/test_render.py`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from catalogs.store import Catalog
from pipelines.record import Record
from pipelines.stages import MAX_DEATHS, Job, OpenStage, Tick, Worker, died
from vapdata.clip import path_under
from vapdata.conditions.rendered import Procedural, render
from vapdata.decoder import Decoder
from vapdata.errors import CallError
from vapdata.video_file import write

MEDIA = "media"
STEP = "render"
"""As in `failures` for all made videos."""


@dataclass(frozen=True, kw_only=True)
class RenderStage:
    """Rows of `videos` that are planned, to video files."""

    job: Job
    provider: Procedural
    roots: Mapping[str, str]
    """Dataset to the folder that its files lie in."""
    name: str = STEP
    cpus: float = 1.0
    gpus: float = 0.0

    def open(self) -> OpenStage:
        """Opens catalog and decoder."""
        return _OpenRender(self.job, self.provider, self.roots)


def media(catalog: Catalog) -> str:
    """Where a catalog's made videos lie."""
    return catalog.files.address(MEDIA)


class Maker(Worker):
    """What making videos shares, whoever makes them: a row per video, a failure per video, notes for what kills a worker."""

    def __init__(self, job: Job, provider: str, roots: Mapping[str, str]) -> None:
        super().__init__(STEP, job)
        self.provider = provider
        self.roots = roots
        self.media = media(self.catalog)
        self.sources: Decoder = Decoder()
        self.decoder = self.sources

    def work(self, record: Record, tick: Tick) -> None:
        """Makes the shard's videos."""
        os.makedirs(os.path.join(self.media, self.provider, record.shard), exist_ok=True)
        for row in record.work.videos:
            before, refused = len(record.rows["failures"]), None
            with self.noted(record, row["video_id"]) as deaths:
                try:
                    if deaths >= MAX_DEATHS:
                        raise died(row["origin"]["uri"], self.name, deaths)
                    record.rows["videos"].append({name: value for name, value in row.items() if name != "origin"} | self.made(row))
                except OSError:
                    raise  # the disk's trouble is the shard's
                except CallError as error:  # that of every video
                    refused = error
                except Exception as error:  # noqa: BLE001 - one clip's trouble is its own row
                    record.fail(self.name, error, video_id=row["video_id"], clip_id=None)
            if refused is not None:
                raise refused
            tick(self.name, 1, int(len(record.rows["failures"]) > before))

    def made(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes one video and writes it to its place; what its row of `videos` says besides the plan."""
        raise NotImplementedError

    def source(self, row: Mapping[str, Any]) -> str:
        """The file that a video is made from."""
        origin = row["origin"]
        return path_under(self.roots[origin["dataset"]], origin["uri"])

    def file(self, row: Mapping[str, Any]) -> str:
        """Where a made video goes."""
        return path_under(self.media, row["uri"])

    def told(self, path: str) -> dict[str, Any]:
        """Size and pixels of a file, as its row of `videos` has them. Raises ClipError when it cannot be decoded."""
        digest = hashlib.sha256()
        for frame in self.sources.frames(path):
            digest.update(np.ascontiguousarray(frame.image))
        return {"bytes": os.path.getsize(path), "content_sha256": digest.hexdigest()}


class _OpenRender(Maker):
    """RenderStage at work."""

    def __init__(self, job: Job, provider: Procedural, roots: Mapping[str, str]) -> None:
        super().__init__(job, provider.name, roots)
        self.programs = provider.programs()

    def made(self, row: dict[str, Any]) -> dict[str, Any]:
        """Renders and writes one video."""
        origin, sampling = row["origin"], self.job.recipe.sampling
        frames = self.sources.sample(self.source(row), origin["start_s"], origin["end_s"], sampling, folder_fps=origin["folder_fps"])
        mask = None if origin["mask"] is None else np.asarray(self.catalog.read_tensor(origin["mask"])[-1])
        path = self.file(row)
        write(path, iter(render(self.programs[row["condition"]], np.array(frames), mask, json.loads(row["parameters"])["drawn"])), sampling.fps)
        return self.told(path)
