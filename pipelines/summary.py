"""What a build did, in counts that add up. Exercised by `pytest tests/pipelines/test_build.py`."""

import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.plan import Plan
from pipelines.recipes import Recipe
from pipelines.record import Record
from pipelines.work import clip_counts


@dataclass(frozen=True, kw_only=True)
class Summary:
    """planned = scanned + failed + to do, in videos; clips = kept + rejected + failed + to do."""

    dataset: str
    catalog: str
    recipe: str
    plan: Plan
    videos: dict[str, int]
    """scanned, failed, to_do."""
    clips: dict[str, int]
    """clips, kept, too_short, not_selected, failed, to_do, without_caption."""
    stage_seconds: dict[str, float]
    """Busy seconds per stage, over all workers."""
    working_seconds: float
    """From the first stage's first shard to the last stage's last: without start-up, planning and merging."""
    seconds: float
    left: tuple[str, ...]
    """Shards that stopped and why; the next run goes on with them."""
    failures: tuple[tuple[str, str, int], ...]
    """(step, error, count), most frequent first."""

    def lines(self) -> list[str]:
        """The summary as a terminal shows it."""
        return [
            *self._counts(),
            *(f"failed   {count} x {error} in {step}" for step, error, count in self.failures[:5]),
            *(f"left     shard {shard}" for shard in self.left),
            f"seconds  {', '.join(f'{stage} {busy:.1f}' for stage, busy in self.stage_seconds.items()) or 'nothing to do'}; {self.seconds:.1f} in all",
            f"catalog  {self.catalog}",
            f"next     {self._next()}",
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stage: planned = kept + rejected + failed, of what has been worked on; for the `runs` table."""
        videos, clips = self.videos, self.clips
        rejected = clips["too_short"] + clips["not_selected"]
        return {
            "scan": {"planned": videos["scanned"] + videos["failed"], "kept": videos["scanned"], "rejected": 0, "failed": videos["failed"]},
            "encode": {"planned": clips["clips"] - clips["to_do"], "kept": clips["kept"], "rejected": rejected, "failed": clips["failed"]},
        }

    def _counts(self) -> list[str]:
        plan, videos, clips = self.plan, self.videos, self.clips
        lines = [
            f"videos   {sum(videos.values())} planned = {videos['scanned']} scanned + {videos['failed']} failed + {videos['to_do']} to do; "
            f"{plan.absent} without file, {plan.malformed} unusable rows",
            f"clips    {clips['clips']} = {clips['kept']} kept + {clips['too_short'] + clips['not_selected']} rejected "
            f"({clips['too_short']} too_short, {clips['not_selected']} not selected) + {clips['failed']} failed + {clips['to_do']} to do",
        ]
        if clips["without_caption"]:
            lines.append(f"captions {clips['without_caption']} selected clips have none: the empty text was encoded, no mask was made")
        return lines

    def _next(self) -> str:
        where = shlex.quote(self.catalog)
        if self.left or self.clips["to_do"] or self.videos["to_do"]:
            return "run the same command again to go on"
        if self.failures:
            return f'vapdata query --catalog {where} "select step, error, message from failures"'
        return f'vapdata query --catalog {where} "select source, count(*), avg(motion) from clips_wide group by 1"'


def summarize(
    catalog: Catalog, dataset: str, recipe: Recipe, where: str, kinds: Mapping[str, str], plan: Plan, records: Sequence[Record], began: float
) -> Summary:
    """The summary of a build that ended just now."""
    con = connect(catalog)
    scanned, failed, planned = con.execute(
        """
        with seen as (select distinct video_id from clips),
             broken as (select distinct video_id from failures where step = 'scan' and clip_id is null)
        select count(*) filter (v.video_id in (from seen)),
               count(*) filter (v.video_id in (from broken) and v.video_id not in (from seen)), count(*)
        from videos v where v.dataset = ?
        """,
        [dataset],
    ).fetchone()
    failures = con.execute("select step, error, count(*) from failures where step <> 'plan' group by all order by 3 desc, 1, 2").fetchall()
    clips = clip_counts(con, dataset, recipe, where, kinds)
    con.close()
    return Summary(
        dataset=dataset,
        catalog=catalog.uri,
        recipe=recipe.name,
        plan=plan,
        videos={"scanned": scanned, "failed": failed, "to_do": planned - scanned - failed},
        clips=clips,
        stage_seconds=busy_seconds(records),
        working_seconds=working_seconds(records),
        seconds=time.time() - began,
        left=tuple(f"{record.shard}: {record.stopped}" for record in records if record.stopped),
        failures=tuple(failures),
    )


def busy_seconds(records: Sequence[Record]) -> dict[str, float]:
    """Busy seconds of each stage, over all its workers."""
    busy: dict[str, float] = defaultdict(float)
    for record in records:
        for stage, (start, end) in record.spans.items():
            busy[stage] += end - start
    return dict(busy)


def working_seconds(records: Sequence[Record]) -> float:
    """Seconds from when the first stage began on its first shard to when the last stage ended on its last."""
    spans = [span for record in records for span in record.spans.values()]
    return max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0.0
