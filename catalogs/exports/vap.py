"""Video-As-Prompt's vap_data.csv and benchmark.csv. Exercised by `pytest tests/catalogs/test_exports.py`."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from catalogs.exports.chosen import ChosenClip, Place, Written, folder_name, write_csv
from catalogs.pairs import FEWEST_REFERENCES
from catalogs.queries import connect
from catalogs.store import Catalog
from vapdata.errors import CallError

COLUMNS = ("video_paths", "kind", "tar_video_caption", "ref_video_paths", "reference_alignment_score", "split", "_valid")
"""What the released trainer reads."""
OURS = ("category", "clip_id", "clip_split", "split_group", "license")
"""What it does not: with these the source `vap_data` gives the same pairs."""
BENCHMARK = ("ref_video_path", "ref_video_caption", "tar_video_caption", "video_paths")
ONLY_REFERENCE = "reference"
"""`split` of a row that others refer to and that is no target: the released trainer trains on `train` alone."""


@dataclass(frozen=True, kw_only=True)
class Vap:
    """Pairs as the released Video-As-Prompt trainer reads them.

    What: `vap_data.csv`, a row per clip and condition; `benchmark.csv`, a row per target of split test, with its best
        reference; the videos under `videos/<condition>/`. A clip of two conditions has two rows and two links, since
        `video_paths` is the released loader's key.
    Reads: pairs, conditions, captions (role vap, long, source or short, in this order) and videos.
    Writes: a folder; lay it at `data/VAP-Data`. Besides the released columns: category, clip_id, clip_split,
        split_group, license.
    Default: every pair, of every provider and split.
    Cost: a hard link per row; about real time for a clip that is a part of its file.
    Fails when: there is no pair to write (CallError). A target with fewer than three references among the clips that are
        exported is left out and counted: the released loader would stop there.
    Source: `finetrainers/data/dataset.py` and `infer/*_bench.py` of Video-As-Prompt.
    """

    name: ClassVar[str] = "vap"
    paired: ClassVar[bool] = True

    def write(self, catalog: Catalog, clips: Mapping[str, ChosenClip], folder: str, place: Place) -> Written:
        """Videos and both tables. Raises CallError when no target is left."""
        rows, short = _rows(catalog, clips)
        if not rows:
            raise CallError(
                f"{catalog.shown} has no pair to export among {len(clips)} clips with caption and file, and {short} targets with fewer than {FEWEST_REFERENCES} "
                f"references. Find some: vapdata pairs --catalog {catalog.shown}"
            )
        paths = {(row["condition"], row["clip_id"]): _path(row["condition"], clips[row["clip_id"]]) for row in rows}
        for condition, clip in paths:
            place(clips[clip], os.path.join(folder, paths[condition, clip]))
        write_csv(os.path.join(folder, "vap_data.csv"), (*COLUMNS, *OURS), _table(rows, clips, paths))
        tests = write_csv(os.path.join(folder, "benchmark.csv"), BENCHMARK, _benchmark(rows, clips, paths))
        wrote = {
            "videos": len(rows),
            "conditions": len({row["condition"] for row in rows}),
            "targets": sum(bool(row["references"]) for row in rows),
            "pairs": sum(len(row["references"]) for row in rows),
            "benchmark rows": tests,
        }
        return Written(wrote=wrote, left_out={f"targets with fewer than {FEWEST_REFERENCES} references": short} if short else {})


def _rows(catalog: Catalog, clips: Mapping[str, ChosenClip]) -> tuple[list[dict[str, Any]], int]:
    """(condition, clip_id, category, score, split and references of each member that is written; targets left with too few)."""
    with contextlib.closing(connect(catalog)) as con:
        con.register("exported", pa.table({"clip_id": pa.array(list(clips), pa.string())}))
        con.execute(
            """
            create temp table targets as
            select condition, target_clip_id as clip_id, list_sort(list(distinct reference_clip_id) filter (reference_clip_id in (from exported))) as "references",
                   if(bool_or(split = 'test'), 'test', if(bool_or(split = 'validation'), 'validation', 'train')) as split
            from pairs where target_clip_id in (from exported) group by all"""
        )
        few = f'coalesce(len("references"), 0) < {FEWEST_REFERENCES}'
        (short,) = con.execute(f"select count(*) from targets where {few}").fetchall()[0]
        con.execute(f"delete from targets where {few}")
        rows = con.sql(
            f"""
            with members as (
              select condition, clip_id, "references", split from targets
              union all
              select condition, clip_id, []::varchar[], '{ONLY_REFERENCE}'
              from (select distinct condition, unnest("references") as clip_id from targets) anti join targets using (condition, clip_id)),
            scored as (select condition, clip_id, max(score) as score from conditions group by all),
            named as (select condition, min(category) as category from pairs group by all)
            select members.*, named.category, coalesce(scored.score, 100) as score
            from members join named using (condition) left join scored using (condition, clip_id) order by condition, clip_id"""
        ).to_arrow_table().to_pylist()
    return rows, short


def _path(condition: str, clip: ChosenClip) -> str:
    return f"videos/{folder_name(condition)}/{clip.plain_name}{clip.suffix}"


def _table(rows: list[dict[str, Any]], clips: Mapping[str, ChosenClip], paths: Mapping[tuple[str, str], str]) -> Iterator[tuple[Any, ...]]:
    several = len({clips[row["clip_id"]].content_dataset for row in rows}) > 1  # of one dataset, the groups' own names tell them apart
    for row in rows:
        clip, condition = clips[row["clip_id"]], row["condition"]
        references = json.dumps([paths[condition, each] for each in row["references"]], ensure_ascii=False)
        group = f"{clip.content_dataset}/{clip.content_group}" if several else clip.content_group
        yield (
            *(paths[condition, clip.clip_id], condition, clip.caption, references, f"{row['score']:.17g}", row["split"], 1),
            *(row["category"], clip.clip_id, clip.split, group, clip.license or ""),
        )


def _benchmark(rows: list[dict[str, Any]], clips: Mapping[str, ChosenClip], paths: Mapping[tuple[str, str], str]) -> Iterator[tuple[Any, ...]]:
    scores = {(row["condition"], row["clip_id"]): row["score"] for row in rows}
    for row in rows:
        if row["split"] == "test":
            condition = row["condition"]
            best = min(row["references"], key=lambda each, condition=condition: (-scores[condition, each], each))
            yield paths[condition, best], clips[best].caption, clips[row["clip_id"]].caption, paths[condition, row["clip_id"]]
