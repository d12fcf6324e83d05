"""Members of conditions become pairs of a reference and a target: same condition, other content.

All of it is SQL over whole tables, on hashes of (seed, ids) and nothing else, so the pairs depend neither on machines nor
on order. Per condition and split, the contents stand in a ring in the order of their hashes; the same ten different strides
lead from a target's content to those of its references, so every content refers and is referred to about
equally often, and a million members need no join of a condition with itself.
Exercised by `pytest tests/pipelines/test_pairing.py`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from catalogs.duplicates import join_duplicates
from catalogs.pairs import FEWEST_REFERENCES, MOST_REFERENCES, contents_sql
from catalogs.store import Catalog
from vapdata.errors import CallError

VERSION = 1
"""Goes up when the same members and settings give other pairs."""

HOLD_OUT_FROM = 10
"""Conditions that a category needs before any of it is held out: of a few, none can be spared."""

MEMORY = "2GB"
"""What DuckDB may hold while it pairs, before it spills to disk."""

_BATCH = 122_880
_MEMBERS = pa.schema([("clip_id", pa.string()), ("condition", pa.string()), ("category", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """How members are paired; `--set pairs.FIELD=VALUE`."""

    seed: int = 0
    least_score: float = 50.0
    """A member with less is in no pair."""
    least_members: int = FEWEST_REFERENCES + 1
    """A condition with fewer has no pairs."""
    most_members: int | None = None
    """Of a condition with more, as many are taken, by hash; None takes all."""
    most_of_one_content: int | None = None
    """The same for the members of one content in a condition, so that one long video does not stand for all."""
    held_out: float = 0.05
    """Share of the conditions whose pairs are all for testing, by hash of the name, in categories of ten or more."""
    held_out_conditions: tuple[str, ...] = ()
    """Conditions that are held out whatever their hash says."""

    alignment: Literal["stated", "clip"] = "stated"
    """Of made members: what their provider says, or whether they move away from their sources alike in CLIP's space."""
    embedding: str = ""
    """With `clip`: name of the product; empty where the catalog has one only."""

    def __post_init__(self) -> None:
        if not (0 <= self.least_score <= 100 and 0 <= self.held_out <= 1):
            raise CallError(f"pairs: got least_score={self.least_score:g} held_out={self.held_out:g}; wanted 0 to 100, and 0 to 1. Type --set pairs.least_score=50")
        wrong = [name for name in ("least_members", "most_members", "most_of_one_content") if (value := getattr(self, name)) is not None and value < 1]
        if wrong:
            raise CallError(f"pairs: {wrong[0]}={getattr(self, wrong[0])}, wanted 1 or more. Type --set pairs.{wrong[0]}=4")


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What pairing made of one provider's members. members = targets + refused."""

    provider: str
    generation: str
    members: int
    targets: int
    pairs: int
    conditions: Mapping[str, int]
    """Conditions with pairs, per category."""
    held_out: tuple[str, ...]
    refused: Mapping[str, int] = field(default_factory=dict)
    """Members that no pair has as its target, by reason."""


def pair(catalog: Catalog, con: Any, provider: str, members: pa.Table | pa.RecordBatchReader, settings: Pairing) -> Paired:
    """Pairs one provider's members (clip_id, condition, category, score); each clip and condition once.

    `con` is a connection of catalogs.queries to `catalog`; the pairs are left in its temporary tables, for `condition_rows`
    and `pair_rows`.
    """
    con.execute(f"set memory_limit = '{MEMORY}'")
    con.register("raw_members", members)
    con.execute("create or replace temp table members as select * from raw_members")
    con.unregister("raw_members")
    _stand(catalog, con, settings)
    held = _hold_out(con, provider, settings)
    _refuse_held_out(con)
    _ring(con, settings)
    _choose(con)
    return _result(con, provider, settings, held)


def members_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of members as the table that `pair` takes."""
    return pa.Table.from_pylist(rows, schema=_MEMBERS)


def condition_rows(con: Any, paired: Paired) -> Iterator[pa.Table]:
    """The rows of `conditions` of the members that were paired last, in pieces."""
    yield from _pieces(
        con,
        "select clip_id, condition, category, provider, score, refused, generation from standing, "
        "(select $provider as provider, $generation as generation) order by category, condition, clip_id",
        paired,
    )


def pair_rows(con: Any, paired: Paired) -> Iterator[pa.Table]:
    """The rows of `pairs` that were made last, in pieces and in no order."""
    yield from _pieces(
        con,
        """
        select md5(concat_ws(chr(31), provider, t.condition, r.clip_id, t.clip_id)) as pair_id, t.condition, t.category, r.clip_id as reference_clip_id,
               t.clip_id as target_clip_id, rings.pool as split, least(r.score, t.score) as score, provider, generation
        from chosen join rings using (ring) join standing t on t.member = chosen.target join standing r on r.member = chosen.reference,
             (select $provider as provider, $generation as generation)""",
        paired,
    )


def _pieces(con: Any, sql: str, paired: Paired) -> Iterator[pa.Table]:
    for batch in con.sql(sql, params={"provider": paired.provider, "generation": paired.generation}).to_arrow_reader(_BATCH):
        yield pa.Table.from_batches([batch])


def _hash(settings: Pairing, *parts: str) -> str:
    """SQL of a hash of the seed and `parts`, the same in every version of DuckDB."""
    return f"md5_number_lower(concat_ws(chr(31), {settings.seed}, {', '.join(parts)}))"


def _stand(catalog: Catalog, con: Any, settings: Pairing) -> None:
    """Table `standing`: every member with its clip's split, the hashes of its content and of itself, and why it is refused so far."""
    con.execute(f"create or replace temp table contents as {contents_sql('(select distinct clip_id from members)')}")
    join_duplicates(catalog, con, "contents")
    con.execute(
        f"""
        create or replace temp table standing as
        with torn as (select content from contents join clips using (clip_id) group by content having min(split) <> max(split))
        select row_number() over (order by condition, clip_id) as member, clip_id, condition, category, score, split,
               {_hash(settings, "content")} as source, {_hash(settings, "clip_id")} as spin,
               case when score is null or score < $least then 'low_score'
                    when split = 'train' and content in (from torn) then 'copy_is_held_out' end as refused
        from members join clips using (clip_id) join contents using (clip_id)""",
        {"least": settings.least_score},
    )
    for most, within in ((settings.most_of_one_content, "condition, source"), (settings.most_members, "condition")):
        if most is not None:
            _refuse(con, "over_quota", f"select member from standing where refused is null qualify row_number() over (partition by {within} order by spin, member) > {most}")
    few = f"select condition from standing where refused is null group by condition having count(*) < {settings.least_members}"
    _refuse(con, "few_members", f"select member from standing where condition in ({few})")


def _refuse(con: Any, reason: str, members: str) -> None:
    """Marks what is not refused yet. `members` is a SELECT of member numbers."""
    con.execute(f"update standing set refused = '{reason}' where refused is null and member in ({members})")


def _hold_out(con: Any, provider: str, settings: Pairing) -> tuple[str, ...]:
    """Table `held`: the conditions that no training pair may show. Another provider's pairs of that name decide first."""
    found = con.execute("select category, condition from standing where refused is null group by all order by all").fetchall()
    elsewhere = "select condition, bool_or(split = 'train') from pairs where provider <> $provider group by condition"
    trained = dict(con.execute(elsewhere, {"provider": provider}).fetchall())
    sizes = {category: sum(each == category for each, _ in found) for category, _ in found}
    held = tuple(
        condition
        for category, condition in found
        if condition in settings.held_out_conditions
        or (not trained.get(condition, False) and sizes[category] >= HOLD_OUT_FROM and _share(settings.seed, condition) < settings.held_out)
    )
    con.execute("create or replace temp table held (condition varchar)")
    if held:
        con.executemany("insert into held values (?)", [[each] for each in held])
    return held


def _share(seed: int, condition: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{condition}".encode()).digest()[:8], "big") / 2**64


def _refuse_held_out(con: Any) -> None:
    """What shows a held-out condition teaches no other one either."""
    showing = "select clip_id from standing where refused is null and condition in (from held)"
    _refuse(con, "shows_held_out", f"select member from standing where split = 'train' and condition not in (from held) and clip_id in ({showing})")


def _ring(con: Any, settings: Pairing) -> None:
    """Tables `rings` (a condition in a split), `places` (who stands where) and `stops` (the contents, in order).

    A training ring holds training members only; one of another split also those of training, as references.
    """
    con.execute(
        """
        create or replace temp table pooled as
        with fit as (select member, condition, source, spin, split, condition in (from held) as held from standing where refused is null)
        select member, condition, source, spin, if(held, 'test', split) as pool, true as target from fit
        union all
        select member, condition, source, spin, pool, false from fit
        join (select distinct condition, split as pool from fit where split <> 'train' and not held) using (condition) where split = 'train' and not held"""
    )
    con.execute(
        f"""
        create or replace temp table rings as
        select row_number() over (order by condition, pool) as ring, condition, pool, {_hash(settings, "condition")} as salt, {_hash(settings, "condition", "pool")} as start
        from (select distinct condition, pool from pooled)"""
    )
    con.execute(
        """
        create or replace temp table places as
        select ring, member, source, target, spin, row_number() over (partition by ring, source order by spin, member) - 1 as place
        from pooled join rings using (condition, pool)"""
    )
    con.execute(
        """
        create or replace temp table stops as
        select ring, source, size, row_number() over (partition by ring order by xor(source, salt), source) - 1 as stop, count(*) over (partition by ring) as stops
        from (select ring, source, count(*) as size from places group by ring, source) join rings using (ring)"""
    )


def _choose(con: Any) -> None:
    """Table `chosen`: the references of each target; targets with too few are refused.

    Step by step: asked for all at once, DuckDB joins places to places by ring alone.
    """
    con.execute(
        f"""
        create or replace temp table turns as
        with targets as (
          select ring, member, spin, stop, stops, least(stops - 1, {MOST_REFERENCES}) as ways, start, 1 + start % greatest((stops - 1) // {MOST_REFERENCES}, 1) as step
          from places join stops using (ring, source) join rings using (ring) where target and stops > 1)
        select ring, member, turn, spin, turn // ways as round, (stop + 1 + (start // 1024 + turn % ways * step) % (stops - 1)) % stops as stop
        from targets, range({MOST_REFERENCES}) as t(turn)"""
    )
    con.execute(
        """
        create or replace temp table halts as
        select ring, turns.member as target_member, turn, source, (spin + round) % size as place from turns join stops using (ring, stop) where round < size"""
    )
    con.execute("drop table turns")
    con.execute(
        "create or replace temp table chosen as "
        "select ring, target_member as target, turn, member as reference from halts join places using (ring, source, place) order by target, turn"
    )
    con.execute("drop table halts")
    con.execute(f"create or replace temp table short as select target from chosen group by ring, target having count(*) < {FEWEST_REFERENCES}")
    con.execute("delete from chosen where target in (from short)")
    _refuse(con, "few_references", "select member from standing where member not in (select target from chosen)")


def _result(con: Any, provider: str, settings: Pairing, held: tuple[str, ...]) -> Paired:
    members, targets, pairs = con.execute(
        "select count(*), count(*) filter (refused is null), (select count(*) from chosen) from standing"
    ).fetchall()[0]
    conditions = con.execute("select category, count(distinct condition) from standing where refused is null group by 1 order by 1").fetchall()
    refused = con.execute("select refused, count(*) from standing where refused is not null group by 1 order by 2 desc, 1").fetchall()
    return Paired(
        provider=provider,
        generation=_generation(con, provider, settings, held),
        members=members,
        targets=targets,
        pairs=pairs,
        conditions=dict(conditions),
        held_out=held,
        refused=dict(refused),
    )


def _generation(con: Any, provider: str, settings: Pairing, held: tuple[str, ...]) -> str:
    """Hash of everything that decides the pairs."""
    each = "md5(concat_ws(chr(31), clip_id, category, score, split, source, refused))"
    per_condition = f"select condition, md5(string_agg({each}, '' order by clip_id)) as digest from standing group by condition"
    digest = con.execute(f"select md5(string_agg(condition || digest, chr(31) order by condition)) from ({per_condition})").fetchall()[0][0]
    text = json.dumps([VERSION, provider, asdict(settings), held, digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
