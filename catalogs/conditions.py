"""The conditions of a catalog, with how many clips show each: what `vapdata conditions` lists.

Exercised by `pytest tests/pipelines/test_synthesize.py`.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalogs.queries import connect
from catalogs.store import Catalog
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of one provider. members = targets + refused."""

    category: str
    condition: str
    provider: str
    members: int
    targets: int
    """Members that a pair has as its target."""
    pairs: int
    score: float | None
    """Mean alignment of the members, 0-100."""
    splits: tuple[str, ...]
    """The splits that have pairs; `test` alone where the condition is held out."""
    refused: Mapping[str, int]
    """Members that no pair has as its target, by reason."""

    def cells(self) -> list[Any]:
        """The condition as a row of a list under its category."""
        refused = ", ".join(f"{count} {reason}" for reason, count in self.refused.items())
        return [self.condition, self.provider, self.members, self.targets, self.pairs, self.score, " ".join(self.splits), refused]


def conditions(catalog: Catalog) -> list[Condition]:
    """Every condition, by category, name and provider."""
    sql = """
        with told as (select category, condition, provider, refused, count(*) as clips, sum(score) as scores, count(score) as scored from conditions group by all),
        members as (select category, condition, provider, sum(clips)::bigint as members, coalesce(sum(clips) filter (refused is null), 0)::bigint as targets,
                           sum(scores) / nullif(sum(scored), 0) as score,
                           map_from_entries(list((refused, clips) order by refused) filter (refused is not null)) as refused from told group by all),
        made as (select condition, provider, count(*) as pairs, list(distinct split order by split desc) as splits from pairs group by all)
        select category, condition, provider, members, targets, coalesce(pairs, 0), score, coalesce(splits, []), refused
        from members left join made using (condition, provider) order by category, condition, provider"""
    with contextlib.closing(connect(catalog)) as connection:
        return [_condition(*row) for row in connection.execute(sql).fetchall()]


def members(catalog: Catalog, name: str, most: int) -> list[dict[str, Any]]:
    """The first `most` members of a condition, best first: `provider`, `score`, its thumbnail's row of `frames`, and `made_uri` of a made one.

    Raises CallError when no clip shows it.
    """
    sql = """
        select frames.*, conditions.provider, conditions.score, if(videos.parent_clip_id is null, null, videos.uri) as made_uri
        from conditions join frames using (clip_id) join clips using (clip_id) join videos using (video_id)
        where conditions.condition = $name and frames.product like 'thumb-%' order by refused is not null, conditions.score desc, clip_id limit $most"""
    with contextlib.closing(connect(catalog)) as connection:
        rows = connection.sql(sql, params={"name": name, "most": most}).to_arrow_table().to_pylist()
    if not rows:
        raise CallError(f"no clip of {catalog.shown} shows {name!r}. List the conditions: vapdata conditions --catalog {catalog.shown}")
    return rows


def _condition(category: str, name: str, provider: str, members: int, targets: int, pairs: int, score: float | None, splits: list[str], refused: Any) -> Condition:
    return Condition(
        category=category,
        condition=name,
        provider=provider,
        members=members,
        targets=targets,
        pairs=pairs,
        score=score,
        splits=tuple(splits),
        refused=dict(refused or {}),
    )
