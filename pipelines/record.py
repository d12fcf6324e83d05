"""The record of one shard, as it flows through the stages and gathers rows.

A few kilobytes: rows and names of tensor files, never frames. The driver commits what has arrived.
Exercised by `pytest tests/pipelines/test_stages.py`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.work import ShardWork, Todo
from vapdata.clip import Caption, Clip, Made, Score, Video
from vapdata.errors import ClipError
from vapdata.step import Cell, Product


@dataclass
class Progress:
    """How far each stage is: clips (scan: videos) done and failed."""

    done: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, done: int, failed: int) -> None:
        """Counts `done` pieces of work, `failed` of them in vain."""
        self.done[stage] = self.done.get(stage, 0) + done
        self.failed[stage] = self.failed.get(stage, 0) + failed


@dataclass(kw_only=True)
class Record:
    """One shard on its way."""

    work: ShardWork
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Gathered so far, by table."""
    fresh: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `clips` that this run scanned, each with the `uri` and `folder_fps` of its video: still to be selected from."""
    chosen: list[dict[str, Any]] = field(default_factory=list)
    """Those of them that were selected, until the first encode stage takes them."""
    todo: list[Todo] = field(default_factory=list)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Stage -> when it began and ended on this shard, seconds since the epoch."""
    peak_bytes: int = 0
    stopped: str | None = None
    """Why the shard could not go on; it is left for the next run."""
    refused: str | None = None
    """Why no clip at all can succeed (a wrong key or address), as the user has to mend it: the run stops."""
    fatal: bool = False
    """True when no other shard can do better (a full disk): the run stops."""

    @property
    def shard(self) -> str:
        """The shard's name."""
        return self.work.shard

    def fail(self, step: str, error: BaseException, *, video_id: str | None, clip_id: str | None) -> None:
        """Adds the row of `failures` for `error`."""
        message = " ".join(str(error).split()) or type(error).__name__
        told = {"shard": self.shard, "video_id": video_id, "clip_id": clip_id, "step": step}
        self.rows["failures"].append(failure_row(**told, error=type(error).__name__, message=message, permanent=is_permanent(error)))


def failure_row(
    *, step: str, error: str, message: str, permanent: bool, video_id: str | None, clip_id: str | None = None, shard: str | None = None
) -> dict[str, Any]:
    """A row of `failures`, of a first attempt."""
    return {
        "shard": shard,
        "video_id": video_id,
        "clip_id": clip_id,
        "step": step,
        "error": error,
        "message": message,
        "attempts": 1,
        "permanent": permanent,
    }


def is_permanent(error: BaseException) -> bool:
    """Whether the same bytes can only fail again: what was foreseen and is said to be so. Anything else may pass.

    That counts memory, connections and time-outs, and also mistakes of ours, which an upgrade may mend.
    """
    return isinstance(error, ClipError) and error.permanent


def video_of(row: dict[str, Any]) -> Video:
    """A row of `videos` as the video that planning saw."""
    return Video(
        video_id=row["video_id"],
        dataset=row["dataset"],
        name=row["name"],
        uri=row["uri"],
        split_group=row["split_group"],
        caption=row["caption"],
        label=row["label"],
        license=row["license"],
        split=row["split"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        folder_fps=row["folder_fps"],
        seconds=row["seconds"],
        bytes=row["bytes"],
        scores={name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(row["source_scores"] or "{}").items()},
        made=made_of(row),
    )


def made_of(row: Mapping[str, Any]) -> Made | None:
    """Where the video of a row of `videos` comes from; None for a filmed one."""
    if row.get("parent_clip_id") is None:
        return None
    names = ("provider", "condition", "parent_clip_id", "seed", "parameters", "content_sha256")
    return Made(**{name: row[name] for name in names}, neutral=row["neutral_caption"])


def clip_row(clip: Clip, shard: str) -> dict[str, Any]:
    """`clip` as a row of `clips`."""
    names = ("clip_id", "video_id", "source", "split", "start_s", "end_s", "frames", "fps", "width", "height", "codec", "whole", "truncated")
    return {"shard": shard, **{name: getattr(clip, name) for name in names}}


def caption_row(clip_id: str, caption: Caption, shard: str) -> dict[str, Any]:
    """`caption` as a row of `captions`."""
    return {
        "clip_id": clip_id,
        "shard": shard,
        "captioner": caption.captioner,
        "role": caption.role,
        "text": caption.text,
        "text_sha256": caption.text_sha256,
        "model_id": caption.author and caption.author.model_id,
        "revision": caption.author and caption.author.revision,
        "prompt_version": caption.author and caption.author.prompt_version,
        "frames_used": caption.frames_used,
        "tokens": caption.tokens,
        "prompt_tokens": caption.prompt_tokens,
        "cost": caption.cost,
        "seconds": caption.seconds,
    }


def score_row(clip_id: str, score: Score, shard: str, by: str, caption: Caption | None = None) -> dict[str, Any]:
    """`score` as a row of `scores`; `caption` is the text that went in, if any."""
    told = {"clip_id": clip_id, "shard": shard, "filter": score.filter, "value": score.value, "label": score.label, "by": by}
    return told if caption is None else {**told, "text_sha256": caption.text_sha256}


def tensor_row(cell: Cell, product: Product, *, untold: Caption, settings_sha256: str, shard: str, file: str, row_group: int) -> dict[str, Any]:
    """`cell` as a row of its product's table. `untold` stands for the text of a clip without caption.

    It has the captioner and role that the recipe prefers, so that a caption which arrives later supersedes the row.
    """
    row: dict[str, Any] = {
        "clip_id": cell.clip_id,
        "shard": shard,
        "product": product.name,
        "model_id": product.model_id,
        "revision": product.revision,
        "settings_sha256": settings_sha256,
        "dtype": product.dtype,
        "shape": list(cell.shape),
        "file": file,
        "row_group": row_group,
        **cell.columns,
    }
    if product.reads_caption:
        caption = cell.caption or untold
        row |= {"captioner": caption.captioner, "role": caption.role, "text_sha256": caption.text_sha256}
    return row


def merge_rows(gathered: Mapping[str, list[dict[str, Any]]], into: dict[str, list[dict[str, Any]]]) -> None:
    """Appends `gathered` to `into`, table by table."""
    for table, rows in gathered.items():
        into[table].extend(rows)
