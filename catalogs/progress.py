"""How far a catalog is: per stage what is done, failed, rejected and to do, for `vapdata status`.

Exercised by `pytest tests/catalogs/test_progress.py`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from catalogs.lock import Holder, alive, read_holder
from catalogs.newest import literal
from catalogs.store import Catalog
from catalogs.tables import TABLES
from catalogs.views import connect
from vapdata.errors import CatalogDamaged

MAX_ATTEMPTS = 3
"""A transient failure is tried again until it was tried this often."""

PRODUCT_TABLES = ("masks", "latents", "texts", "features", "frames")
OF_EVERY_CLIP = ("thumb", "embedding-", "fingerprint-")
"""How products begin that belong to every clip, whatever the predicate says."""

_FINAL = f"(permanent or attempts >= {MAX_ATTEMPTS})"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's counts; `planned` = done + failed + rejected + to_do."""

    name: str
    kind: str
    """scan, score, caption or encode."""
    planned: int
    done: int
    """Have an up-to-date row."""
    failed: int
    """Failed for good: permanently, or as often as is tried."""
    rejected: int
    """Are left out for a reason that is no failure: too short, no caption."""
    to_do: int
    """Have no row, or one made from a text that has changed since; transient failures included."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What `vapdata status` shows."""

    videos: int
    clips: int
    hours: float
    """Length of all clips."""
    not_planned: int
    """Rows of the dataset's tables that could not be planned: malformed, or their file is not there."""
    predicate: str | None
    """The newest build's `--where`: encode stages count the clips that satisfy it."""
    stages: tuple[Stage, ...]
    failures: Mapping[str, int]
    """Failures that still stand, per `step: error`."""
    holder: Holder | None
    """The command that is writing to the catalog now."""


def status(catalog: Catalog) -> Status:
    """The catalog's counts as they are now. Raises CatalogDamaged when the newest run's predicate cannot be applied."""
    holder = read_holder(catalog.files)
    with contextlib.closing(connect(catalog)) as connection:
        predicate = _predicate(connection)
        videos, clips, hours = _row(connection, "select (select count(*) from videos), count(*), coalesce(sum(end_s - start_s), 0) / 3600 from clips")
        _select(connection, predicate)
        stages = [_scan(connection, videos), *_scores(connection), *_captions(connection), *_products(connection, catalog)]
        grouped = connection.execute("select step, error, count(*) from failures group by 1, 2 order by 1, 2").fetchall()
        (not_planned,) = _row(connection, "select count(*) from failures where step = 'plan'")
    return Status(
        videos=videos,
        clips=clips,
        hours=hours,
        not_planned=not_planned,
        predicate=predicate,
        stages=tuple(stages),
        failures={f"{step}: {error}": count for step, error, count in grouped},
        holder=holder if holder is not None and alive(catalog.files, holder) else None,
    )


def _row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql).fetchone()
    return row if row is not None else ()


def _predicate(connection: duckdb.DuckDBPyConnection) -> str | None:
    row = _row(connection, 'select predicate from runs where predicate is not null order by "commit" desc, created_at desc limit 1')
    return row[0] if row else None


def _select(connection: duckdb.DuckDBPyConnection, predicate: str | None) -> None:
    """The clips that encoders work on, with their length and whether they have a caption, as table `chosen`."""
    where = "true" if predicate is None else f"({predicate}\n)"
    try:
        connection.execute(
            "create temp table chosen as select clip_id, end_s - start_s as seconds, "
            "clip_id in (select clip_id from captions where role <> 'source_parent' and text <> '') as captioned "
            f"from {'clips' if predicate is None else 'clips_wide'} where {where}"
        )
    except duckdb.Error as error:
        raise CatalogDamaged(f"the newest run's predicate {predicate!r} cannot be applied: {error}. Build again with a --where that fits the catalog.") from error


def _scan(connection: duckdb.DuckDBPyConnection, videos: int) -> Stage:
    (done,) = _row(connection, "select count(*) from videos semi join clips using (video_id)")
    (failed,) = _row(
        connection,
        f"select count(distinct video_id) from failures where step = 'scan' and clip_id is null and {_FINAL} "
        "and video_id in (select video_id from videos) and video_id not in (select video_id from clips)",
    )
    return Stage(name="scan", kind="scan", planned=videos, done=done, failed=failed, rejected=0, to_do=videos - done - failed)


def _scores(connection: duckdb.DuckDBPyConnection) -> Iterator[Stage]:
    (clips,) = _row(connection, "select count(*) from clips")
    rows = connection.execute(
        "with datasets as (select distinct unnest([source, dataset]) as name from (select distinct source, dataset from videos)), "
        "numbers as (select filter, count(*) as made from scores where label is null group by 1), "
        "labelled as (select filter, count(distinct clip_id) as made from scores where label is not null group by 1), "
        "pairs as (select filter, scores.by as writer from scores group by all), "
        "writers as (select filter, bool_or(writer in (select name from datasets)) as given from pairs group by 1) "
        "select filter, (coalesce(numbers.made, 0) + coalesce(labelled.made, 0))::bigint, given "
        "from writers left join numbers using (filter) left join labelled using (filter) order by filter"
    ).fetchall()
    for name, done, given in rows:
        (failed,) = _row(connection, f"select count(distinct clip_id) from failures where step = {literal(name)} and {_FINAL}")
        planned = done + failed if given else clips  # what a dataset does not say is no work to do
        yield Stage(name=name, kind="score", planned=planned, done=done, failed=failed, rejected=0, to_do=max(planned - done - failed, 0))


def _captions(connection: duckdb.DuckDBPyConnection) -> Iterator[Stage]:
    rows = connection.execute("select captioner, count(distinct clip_id) from captions group by captioner order by captioner").fetchall()
    for name, done in rows:
        (failed,) = _row(connection, f"select count(distinct clip_id) from failures where step = {literal(name)} and {_FINAL}")
        yield Stage(name=name, kind="caption", planned=done + failed, done=done, failed=failed, rejected=0, to_do=0)


def _products(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> Iterator[Stage]:
    claimed, newest = catalog.products(), _newest_recipe(connection)
    for table in PRODUCT_TABLES:
        rows = connection.execute(f"select distinct product from {table} where clip_id is not null").fetchall()
        for (product,) in sorted(rows):
            yield _product(connection, table, product, claimed.get(product) or product, [catalog.settings(product) or {}, newest])


def _product(connection: duckdb.DuckDBPyConnection, table: str, product: str, step: str, settings: Sequence[Mapping[str, Any]]) -> Stage:
    texts = any(column.name == "text_sha256" for column in TABLES[table].columns)
    # What is made of a caption outside `texts` (masks, keywords) is not made without one; a text embedding then is that of ''.
    of_captions = texts and table != "texts" and _row(connection, f"select count(text_sha256) from {table} where product = {literal(product)}") > (0,)
    rejects = ["false", *(reject for each in settings for reject in _too_short(each)), *(["not captioned"] if of_captions else [])]
    fresh = f"from {table} as made where product = {literal(product)}"
    if texts:
        fresh = (
            f"from {table} as made left join captions on captions.clip_id = made.clip_id and captions.captioner = made.captioner and captions.role = made.role "
            f"where product = {literal(product)} and (captions.text_sha256 is null or made.text_sha256 is not distinct from captions.text_sha256)"
        )
    planned_of = "(select clip_id, end_s - start_s as seconds, true as captioned from clips)" if product.startswith(OF_EVERY_CLIP) else "chosen"
    planned, done, failed, rejected = _row(
        connection,
        f"select count(*), count(*) filter (made), count(*) filter (not made and broken), count(*) filter (not made and not broken and refused) from ("
        f"select coalesce(made.made, false) as made, coalesce(broken.broken, false) as broken, ({' or '.join(rejects)}) as refused from {planned_of} as chosen "
        f"left join (select made.clip_id, true as made {fresh}) as made using (clip_id) "
        f"left join (select distinct clip_id, true as broken from failures where step in ({literal(step)}, {literal(product)}) and {_FINAL}) as broken using (clip_id))",
    )
    return Stage(name=product, kind="encode", planned=planned, done=done, failed=failed, rejected=rejected, to_do=planned - done - failed - rejected)


def _newest_recipe(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """The newest build's recipe: what it samples decides for all its products. Empty when no run tells."""
    row = _row(connection, "select recipe from runs where recipe like '%\"sampling\"%' order by \"commit\" desc, created_at desc limit 1")
    return dict(json.loads(row[0])) if row else {}


def _too_short(settings: Mapping[str, Any]) -> list[str]:
    """The condition under which a clip is too short for a product's sampling or a recipe's, when it tells."""
    for value in (settings, *settings.values()):
        if not isinstance(value, Mapping) or value.get("short", "reject") != "reject":
            continue
        frames, fps = value.get("pixel_frames", value.get("frames")), value.get("fps")
        if frames is not None and fps:
            return [f"seconds <= {(float(frames) - 1) / float(fps)!r} - 1e-6"]
    return []
