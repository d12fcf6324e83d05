"""What a predicate keeps, condition by condition, before anything is encoded: `vapdata select`.

    vapdata select --catalog catalog --where "aesthetic >= 4.5 and motion between 0.3 and 20"

The same SQL as `vapdata build --where`, quantiles over the whole catalog included. Nothing is written.
Exercised by `pytest tests/pipelines/test_select.py`.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalogs.newest import literal, quoted
from catalogs.queries import check_predicate, conjuncts, connect, resolve, wide_columns
from catalogs.store import Catalog
from pipelines.estimate import duration, size
from pipelines.prepare import kinds_in, tensor_bytes
from pipelines.recipes import Recipe
from pipelines.work import by_kind, create_selectable, long_enough_sql, shards_with_work

SHOWN = 3
"""Clips shown on each side of a threshold."""
MEASURED_FILES = 200
"""Tensor files that are measured per product."""

Example = tuple[str, float]
"""(clip, its score)."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One of the conditions that a predicate joins by AND."""

    text: str
    kept: int
    hours: float
    rejected_alone: int
    """Clips that all other conditions keep."""
    unknown: int
    """Clips of which the condition is neither true nor false, since a score lacks: not kept."""
    fills_in: str | None
    """The command that gives the first score that it mentions."""
    sides: Mapping[str, tuple[Example, ...]]
    """The clips next to its thresholds: `rejected below`, `kept from`, `kept to`, `rejected above`, nearest first."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What `vapdata select` shows."""

    catalog: str
    where: str
    constants: Mapping[str, Any]
    """What the questions to the whole catalog were answered."""
    clips: int
    hours: float
    kept: tuple[str, ...]
    """The clips that a build with this recipe and predicate encodes, sorted."""
    kept_hours: float
    too_short: int
    """Clips that the predicate keeps and the recipe's sampling does not fit."""
    conditions: tuple[Condition, ...]
    to_encode: int
    """Kept clips that lack products of the recipe."""
    clip_bytes: float
    measured: bool
    """Whether clip_bytes was measured in this catalog, or is a rough guess."""
    clip_seconds: Mapping[str, float]
    """Busy seconds per clip of each encode stage, as earlier builds took; empty when nothing was encoded yet."""
    gpu_stages: frozenset[str]
    """Stages whose workers take a GPU where there is one."""

    def lines(self) -> list[str]:
        """The preview as a terminal shows it."""
        share = f"{len(self.kept) / self.clips:.0%}" if self.clips else "none"
        lines = [
            f"catalog  {self.clips} clips, {self.hours:.2f} hours",
            f"kept     {len(self.kept)} clips ({share}), {self.kept_hours:.2f} hours; {self.too_short} more are too short for the recipe",
        ]
        lines += [f"constant {value} = {question}" for question, value in self.constants.items()]
        for each in self.conditions:
            rejected = f"rejects {self.clips - each.kept - each.unknown} ({each.rejected_alone} that all others keep), {each.unknown} have no score"
            lines.append(f"where    {each.text}: keeps {each.kept} ({each.hours:.2f} hours), {rejected}")
            lines += [f"           {side + ':':<15} {', '.join(f'{clip} {value:.4g}' for clip, value in clips)}" for side, clips in each.sides.items() if clips]
            if each.unknown and each.fills_in:
                lines.append(f"           fill in:        vapdata {each.fills_in} --catalog {self.catalog}")
        return [*lines, *self._costs()]

    def _costs(self) -> list[str]:
        how = "as measured in this catalog" if self.measured else "rough: nothing of this recipe was encoded here"
        lines = [f"disk     about {size(self.clip_bytes * self.to_encode)} for the {self.to_encode} kept clips that are not encoded yet ({how})"]
        if not self.clip_seconds:
            return [*lines, "time     not measured: nothing of this recipe was encoded here; a sample tells: vapdata build ... --plan"]
        stages = ", ".join(
            f"{name} {duration(seconds * self.to_encode / 3600)}{' of GPU' if name in self.gpu_stages else ''}" for name, seconds in self.clip_seconds.items()
        )
        return [*lines, f"time     {stages}, of one worker each, as earlier builds of this catalog took"]


def preview(uri: str, recipe: Recipe, where: str | None = None) -> Preview:
    """What `where` (None: the recipe's own) keeps. Raises CallError for a bad predicate."""
    catalog = Catalog.open(uri)
    kinds = {**kinds_in(uri), **recipe.score_kinds()}
    columns = wide_columns(*by_kind(kinds))
    asked = where or recipe.where
    check_predicate(asked, columns)
    resolved = resolve(catalog, asked)
    parts = conjuncts(resolved.text)
    with contextlib.closing(connect(catalog)) as con:
        create_selectable(con, kinds)
        flags = ", ".join(f"({part}\n) as part{number}" for number, part in enumerate(parts))
        con.execute(f"create temp table asked as select *, end_s - start_s as seconds_long, {long_enough_sql(recipe)} as long_enough, {flags} from selectable")
        together = " and ".join(f"coalesce(part{number}, false)" for number in range(len(parts)))
        clips, hours, short = _row(con, f"select count(*), coalesce(sum(seconds_long), 0) / 3600, count(*) filter ({together} and not long_enough) from asked")
        kept = con.execute(f"select clip_id, seconds_long from asked where {together} and long_enough order by clip_id").fetchall()
        names = [row[0] for row in con.execute("select distinct dataset from videos order by 1").fetchall()]
        conditions = tuple(_condition(con, number, parts, columns) for number in range(len(parts)))
        works = [work for name in names for work in shards_with_work(con, name, recipe, resolved.text, kinds, only=None)]
        clip_bytes = _clip_bytes(catalog, con, recipe)
        seconds = _clip_seconds(con, recipe)
    return Preview(
        catalog=uri,
        where=asked,
        constants=resolved.constants,
        clips=clips,
        hours=hours,
        kept=tuple(row[0] for row in kept),
        kept_hours=sum(row[1] for row in kept) / 3600,
        too_short=short,
        conditions=conditions,
        to_encode=sum(len(work.todo) for work in works),
        clip_bytes=tensor_bytes(recipe) if clip_bytes is None else clip_bytes,
        measured=clip_bytes is not None,
        clip_seconds=seconds,
        gpu_stages=frozenset(stage.name for stage in recipe.encode if stage.gpus),
    )


def _condition(con: Any, number: int, parts: list[str], columns: Mapping[str, str]) -> Condition:
    others = " and ".join(["true", *(f"coalesce(part{each}, false)" for each in range(len(parts)) if each != number)])
    mine = f"part{number}"
    kept, hours, alone, unknown = _row(
        con,
        f"select count(*) filter ({mine}), coalesce(sum(seconds_long) filter ({mine}), 0) / 3600, "
        f"count(*) filter ({others} and not coalesce({mine}, false)), count(*) filter ({mine} is null) from asked",
    )
    mentioned = check_predicate(parts[number], columns).columns
    column = next((name for name in columns if name in mentioned and columns[name] in ("DOUBLE", "BIGINT")), None)
    fills_in = f"backfill {column}" if column else "dedup" if "duplicate" in mentioned else None
    return Condition(text=parts[number], kept=kept, hours=hours, rejected_alone=alone, unknown=unknown, fills_in=fills_in, sides=_sides(con, mine, column) if column else {})


def _sides(con: Any, mine: str, column: str) -> dict[str, tuple[Example, ...]]:
    """The clips next to the lowest and the highest score that is kept, where there are any beyond it."""
    name = quoted(column)
    lowest, highest = _row(con, f"select min({name}) filter ({mine}), max({name}) filter ({mine}) from asked")

    def some(where: str, order: str) -> tuple[Example, ...]:
        return tuple(con.execute(f"select clip_id, {name} from asked where {name} is not null and {where} order by {name} {order}, clip_id limit {SHOWN}").fetchall())

    if lowest is None:
        return {"rejected": some("true", "desc")}
    below, above = some(f"not {mine} and {name} < {lowest!r}", "desc"), some(f"not {mine} and {name} > {highest!r}", "asc")
    sides = {"rejected below": below, "kept from": some(mine, "asc")} if below else {}
    return {**sides, **({"kept to": some(mine, "desc"), "rejected above": above} if above else {})}


def _clip_bytes(catalog: Catalog, con: Any, recipe: Recipe) -> float | None:
    """Bytes that a clip takes on disk with all products, as those that are there do; None where none is there, or they lie elsewhere."""
    if not catalog.files.local or not recipe.products():
        return None
    total = 0.0
    for product in recipe.products():
        rows = con.execute(
            f"select file, count(*) from {product.table} where product = ? and clip_id is not null group by 1 order by 1 limit {MEASURED_FILES}", [product.name]
        ).fetchall()
        if rows:
            total += sum(os.path.getsize(catalog.files.address(file)) for file, _ in rows) / sum(count for _, count in rows)
        elif product.without_caption != "none" or not product.reads_caption:
            return None
    return total


def _clip_seconds(con: Any, recipe: Recipe) -> dict[str, float]:
    """Busy seconds per clip of each encode stage, over the runs that encoded for this recipe."""
    products = ", ".join(literal(product.name) for product in recipe.products()) or "''"
    tables = dict.fromkeys(product.table for product in recipe.products())
    made = " union ".join(f"select run_id, clip_id from {table} where product in ({products}) and clip_id is not null" for table in tables)
    if not made:
        return {}
    runs = con.execute(
        f"select stage_seconds, count(distinct made.clip_id) from runs join ({made}) as made using (run_id) where stage_seconds is not null group by run_id, stage_seconds"
    ).fetchall()
    found = {}
    for stage in recipe.encode:
        told = [(json.loads(text)[stage.name], count) for text, count in runs if stage.name in json.loads(text)]
        if told:
            found[stage.name] = sum(seconds for seconds, _ in told) / sum(count for _, count in told)
    return found


def _row(con: Any, sql: str) -> tuple[Any, ...]:
    return con.execute(sql).fetchall()[0]
