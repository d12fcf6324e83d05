"""What is left to do, counted in rows: clips selected now, less clips with an up-to-date row, less what failed for good.

A moved `--where`, a changed caption, a later download and a killed run are all the same question, asked once per
run. Exercised by `pytest tests/pipelines/test_work.py`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from catalogs.queries import matching, wide_sql
from pipelines.recipes import Recipe
from vapdata.clip import Caption
from vapdata.step import Product, step_name

MAX_ATTEMPTS = 3
CONSTANTS = "constants"
"""Shard of the rows that belong to no clip."""

NO_TEXT_SHA256 = hashlib.sha256(b"").hexdigest()
"""What stands for the text of a clip without caption."""


@dataclass(kw_only=True)
class Todo:
    """One clip, the products it still needs, and the text that goes in."""

    clip: dict[str, Any]
    """Its row of `clips`, with the `uri` and `folder_fps` of its video."""
    products: tuple[str, ...]
    caption: Caption | None


@dataclass(kw_only=True)
class Looked:
    """One clip, the steps that still have to look at it, and its text."""

    clip: dict[str, Any]
    """As in `Todo`."""
    steps: tuple[str, ...]
    caption: Caption | None


@dataclass(kw_only=True)
class ShardWork:
    """What one shard still needs. A record starts from this and gathers rows."""

    shard: str
    videos: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `videos` to scan."""
    todo: list[Todo] = field(default_factory=list)
    """Clips scanned earlier that still need products."""
    looks: list[Looked] = field(default_factory=list)
    """Clips scanned earlier that steps of this run still have to look at."""
    constants: tuple[str, ...] = ()
    """Products whose rows without clip are still to be written."""


def shards_with_work(con: Any, dataset: str, recipe: Recipe, where: str, kinds: Mapping[str, str], *, only: Sequence[str] | None) -> list[ShardWork]:
    """Everything that a build of `dataset` with `recipe` still has to do, by shard, in shard order.

    `kinds` are the scores that `where` may speak of, whether or not any clip has them yet.
    """
    create_selectable(con, kinds)
    restrict = restricted(con, only)
    works: dict[str, ShardWork] = {}
    for row in _videos_to_scan(con, dataset, restrict):
        works.setdefault(row["shard"], ShardWork(shard=row["shard"])).videos.append(row)
    for shard, todo in _clips_to_encode(con, dataset, recipe, where, restrict):
        works.setdefault(shard, ShardWork(shard=shard)).todo.append(todo)
    constants = _constants_to_write(con, recipe)
    if constants:
        works[CONSTANTS] = ShardWork(shard=CONSTANTS, constants=constants)
    return [works[shard] for shard in sorted(works)]


def selected_now(recipe: Recipe, where: str, clips: Sequence[Mapping[str, Any]], scores: pa.Table, kinds: Mapping[str, str], clip_schema: pa.Schema) -> set[str]:
    """Of freshly scanned clips, the ids that `where` selects and that are long enough: the same SQL, in memory."""
    if not clips:
        return set()
    table = pa.Table.from_pylist([{name: clip.get(name) for name in clip_schema.names} for clip in clips], schema=clip_schema)
    chosen = set(matching(table, scores, where, *by_kind(kinds)))
    return {clip["clip_id"] for clip in clips if clip["clip_id"] in chosen and long_enough(recipe, clip)}


def long_enough(recipe: Recipe, clip: Mapping[str, Any]) -> bool:
    """Whether the clip shows a frame at every sampled time, or the recipe has a way around that."""
    return recipe.sampling.short != "reject" or recipe.sampling.fits(clip["end_s"] - clip["start_s"])


def long_enough_sql(recipe: Recipe) -> str:
    """`long_enough` as SQL over `clips`."""
    return "true" if recipe.sampling.short != "reject" else f"(end_s - start_s) > {recipe.sampling.seconds - 1e-6!r}"


def needs(recipe: Recipe, caption: Caption | None) -> tuple[str, ...]:
    """The products that a selected clip with this caption gets."""
    return tuple(product.name for product in recipe.products() if caption is not None or not _skips_without_caption(product))


def choose_caption(recipe: Recipe, captions: Iterable[Caption]) -> Caption | None:
    """The first of the recipe's preferred (captioner, role) that the clip has with words in it."""
    by_key = {(each.captioner, each.role): each for each in captions if each.text.strip()}
    return next((by_key[key] for key in recipe.use_captions if key in by_key), None)


def by_kind(kinds: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names of the scores that are numbers, and of those that are labels."""
    return [name for name, kind in kinds.items() if kind == "value"], [name for name, kind in kinds.items() if kind == "label"]


def create_selectable(con: Any, kinds: Mapping[str, str]) -> None:
    """`clips_wide` with a column for every score of `kinds`, those that no clip has yet included."""
    con.execute(f"create or replace temp view selectable as {wide_sql(*by_kind(kinds))}")


def restricted(con: Any, only: Sequence[str] | None) -> str:
    """The condition on `videos` v that leaves those of these ids; None leaves all."""
    con.execute("create or replace temp table only_videos (video_id varchar)")
    if only:
        con.executemany("insert into only_videos values (?)", [[video] for video in only])
    return "true" if only is None else "v.video_id in (from only_videos)"


def _skips_without_caption(product: Product) -> bool:
    return product.reads_caption and product.without_caption == "none"


def _videos_to_scan(con: Any, dataset: str, restrict: str) -> list[dict[str, Any]]:
    return (
        con.sql(
            f"""
            select v.* exclude (run_id, commit, created_at) from videos v
            where v.dataset = ? and {restrict}
              and not exists (select 1 from clips c where c.video_id = v.video_id)
              and not exists (
                select 1 from failures f
                where f.step = 'scan' and f.video_id = v.video_id and f.clip_id is null
                  and f.commit > v.commit and (f.permanent or f.attempts >= {MAX_ATTEMPTS}))
            order by v.shard, v.video_id
            """,
            params=[dataset],
        )
        .to_arrow_table()
        .to_pylist()
    )


def _clips_to_encode(con: Any, dataset: str, recipe: Recipe, where: str, restrict: str) -> list[tuple[str, Todo]]:
    if not recipe.products():
        return []
    register_preferences(con, recipe)
    rows = (
        con.sql(
            f"""
            with {wanted_sql(recipe, where)}, missing as ({_all_missing_sql(recipe)})
            select c.* exclude (run_id, commit, created_at), v.uri, v.folder_fps, list(m.product order by m.product) as products,
                   any_value(w.text) as text, any_value(w.captioner) as captioner, any_value(w.role) as role
            from missing m join wanted w using (clip_id) join clips c using (clip_id) join videos v using (video_id)
            where {restrict}
            group by all order by c.shard, c.clip_id
            """,
            params={"dataset": dataset},
        )
        .to_arrow_table()
        .to_pylist()
    )
    return [(row["shard"], _todo(row)) for row in rows]


def clip_counts(con: Any, dataset: str, recipe: Recipe, where: str, kinds: Mapping[str, str]) -> dict[str, int]:
    """What became of each clip of the dataset: clips = kept + too_short + not_selected + failed + to_do.

    `without_caption` counts selected clips that have no text.
    """
    create_selectable(con, kinds)
    register_preferences(con, recipe)
    steps = ", ".join(_literal(step_name(encoder)) for encoder in recipe.encoders) or "''"
    row = con.execute(
        f"""
        with {wanted_sql(recipe, where)}, missing as ({_all_missing_sql(recipe)}),
        fates as (
          select c.clip_id, w.clip_id is not null and w.text is null as untold,
            case when w.clip_id is null then if({long_enough_sql(recipe)}, 'not_selected', 'too_short')
                 when c.clip_id in (select clip_id from missing) then 'to_do'
                 when c.clip_id in (select clip_id from failures where step in ({steps}) and clip_id is not null) then 'failed'
                 else 'kept' end as fate
          from clips c left join wanted w using (clip_id) where c.source = $dataset)
        select count(*), {", ".join(f"count(*) filter (fate = '{fate}')" for fate in FATES)}, count(*) filter (untold) from fates
        """,
        {"dataset": dataset},
    ).fetchone()
    return dict(zip(("clips", *FATES, "without_caption"), row, strict=True))


FATES = ("kept", "too_short", "not_selected", "failed", "to_do")


def wanted_sql(recipe: Recipe, where: str, *, any_length: bool = False) -> str:
    """Common table expressions: the clips that are selected now, each with the text that goes in."""
    return f"""
      selected as materialized (
        select w.clip_id from selectable w
        where ({where}
        ) and {'true' if any_length else long_enough_sql(recipe)} and w.source = $dataset),
      told as (
        select t.clip_id, t.text, t.captioner, t.role, t.text_sha256 from captions t
        join preferences p on p.captioner = t.captioner and p.role = t.role
        where trim(t.text) <> ''
        qualify row_number() over (partition by t.clip_id order by p.rank) = 1),
      wanted as materialized (
        select s.clip_id, told.text, told.captioner, told.role, coalesce(told.text_sha256, '{NO_TEXT_SHA256}') as sha
        from selected s left join told using (clip_id))"""


def _all_missing_sql(recipe: Recipe) -> str:
    """Clips and products that are selected, not there, and not given up.

    What has been given up is worked out once, not once a product: measured of eight products of a small catalog, 0.25 s instead of 0.9.
    """
    parts = [_missing_sql(product, step_name(encoder)) for encoder in recipe.encoders for product in encoder.products()]
    if not parts:
        return "select null::varchar as clip_id, null::varchar as product where false"
    given_up = f"select clip_id, step from failures where clip_id is not null and (permanent or attempts >= {MAX_ATTEMPTS})"
    return f"with given_up as materialized ({given_up}) {' union all '.join(parts)}"


def _todo(row: dict[str, Any]) -> Todo:
    text, captioner, role = (row.pop(name) for name in ("text", "captioner", "role"))
    products = tuple(row.pop("products"))
    return Todo(clip=row, products=products, caption=None if text is None else Caption(text=text, captioner=captioner, role=role))


def register_preferences(con: Any, recipe: Recipe) -> None:
    """The recipe's preferred (captioner, role), in order, as relation `preferences`."""
    rows = [{"captioner": captioner, "role": role, "rank": rank} for rank, (captioner, role) in enumerate(recipe.use_captions)]
    schema = pa.schema([("captioner", pa.string()), ("role", pa.string()), ("rank", pa.int64())])
    con.register("preferences", pa.Table.from_pylist(rows, schema=schema))


def _missing_sql(product: Product, step: str) -> str:
    fresh = "and t.text_sha256 = w.sha" if product.reads_caption else ""
    told = "w.text is not null" if _skips_without_caption(product) else "true"
    return f"""
      select w.clip_id, {_literal(product.name)} as product from wanted w
      where {told}
        and not exists (select 1 from {product.table} t where t.clip_id = w.clip_id and t.product = {_literal(product.name)} {fresh})
        and not exists (select 1 from given_up f where f.clip_id = w.clip_id and f.step = {_literal(step)})"""


def _constants_to_write(con: Any, recipe: Recipe) -> tuple[str, ...]:
    missing = []
    for encoder in recipe.encoders:
        for product in encoder.products():
            if product.table == "texts":
                have = con.execute("select count(*) from texts where clip_id is null and product = ?", [product.name]).fetchone()[0]
                missing += [product.name] if not have else []
    return tuple(missing)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
