"""Do the pairs keep the law? Same condition, other content, three to ten references, and nothing of a test in training.

Each rule is a SELECT in RULES that gives what breaks it, over the catalog's views and the content of every clip that a
pair or a membership names. `vapdata verify` asks all of them as its check `pairs`.
Exercised by `pytest tests/catalogs/test_verify_pairs.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb

from catalogs.duplicates import join_duplicates
from catalogs.finding import Finding
from catalogs.pairs import FEWEST_REFERENCES, MOST_REFERENCES, contents_sql
from catalogs.store import Catalog

_PAIR = "'pairs (' || pair_id || ': ' || reference_clip_id || ' -> ' || target_clip_id || ')'"
_TARGET = "'pairs (target ' || target_clip_id || ', ' || condition || ' of ' || provider || ')'"
_KEY = "hash(target_clip_id, condition, provider)"
_ONE = "hash(reference_clip_id, target_clip_id, condition, provider)"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule about pairs. Either `breaks` and `got`, or `sql`."""

    what: str
    """What is wrong when it is broken."""
    wanted: str
    breaks: str = ""
    """SQL over a row of `sides` that is true when the pair breaks the rule; all of these are asked in one pass."""
    got: str = ""
    """SQL over that row: what was found instead."""
    sql: str = ""
    """A SELECT of (where, got), a row for each thing that breaks the rule."""


RULES: dict[str, Rule] = {
    "itself": Rule(what="a clip is its own reference", wanted="two clips", breaks="reference_clip_id = target_clip_id", got="target_clip_id"),
    "video": Rule(
        what="both sides are of one video",
        wanted="two videos",
        breaks="reference_video = target_video and reference_clip_id <> target_clip_id",
        got="reference_video",
    ),
    "source": Rule(
        what="both sides go back to one source",
        wanted="two source clips",
        breaks="reference_origin = target_origin and reference_video <> target_video",
        got="reference_origin",
    ),
    "group": Rule(
        what="both sides are of one split group, or copies of one another",
        wanted="other content",
        breaks="reference_content = target_content and reference_origin <> target_origin and reference_video <> target_video",
        got="replace(reference_content, chr(31), '/')",
    ),
    "condition": Rule(
        what="a side does not show the condition",
        wanted="a row of conditions for both sides",
        breaks="not reference_shows or not target_shows",
        got="if(reference_shows, target_clip_id, reference_clip_id) || ' is no member of ' || condition",
    ),
    "category": Rule(
        what="a condition has several categories, or an unknown one",
        wanted="one of concept, style, motion, camera",
        sql="select 'conditions (' || condition || ' of ' || provider || ')', string_agg(distinct category, ', ' order by category) "
        "from (select condition, provider, category from conditions union select condition, provider, category from pairs) "
        "group by condition, provider having count(distinct category) > 1 or bool_or(category not in ('concept', 'style', 'motion', 'camera'))",
    ),
    "score": Rule(
        what="the score is not the weaker side's",
        wanted="the lower of both members' scores, 0 to 100",
        breaks="reference_shows and target_shows and (score is distinct from least(reference_score, target_score) or not score between 0 and 100)",
        got="coalesce(score::varchar, 'none')",
    ),
    "few": Rule(
        what="a target has too few references",
        wanted=f"at least {FEWEST_REFERENCES}",
        sql=f"select {_TARGET}, any_value(many)::varchar from pairs join counted on counted.key = {_KEY} where many < {FEWEST_REFERENCES} group by all",
    ),
    "many": Rule(
        what="a target has too many references",
        wanted=f"at most {MOST_REFERENCES}",
        sql=f"select {_TARGET}, any_value(many)::varchar from pairs join counted on counted.key = {_KEY} where many > {MOST_REFERENCES} group by all",
    ),
    "twice": Rule(
        what="a pair stands twice",
        wanted="once",
        sql=f"select {_TARGET}, count(*) || ' times with ' || reference_clip_id from pairs where {_ONE} in (select {_ONE} from pairs group by 1 having count(*) > 1) "
        "group by target_clip_id, reference_clip_id, condition, provider having count(*) > 1",
    ),
    "training": Rule(
        what="a training pair shows a clip that is held out",
        wanted="two clips of train",
        breaks="split = 'train' and (reference_split <> 'train' or target_split <> 'train')",
        got="reference_split || ' -> ' || target_split",
    ),
    "split": Rule(
        what="a pair left its target's split",
        wanted="the target's split, its reference of the same or of train",
        breaks="split <> 'train' and not held and (split <> target_split or reference_split not in ('train', split))",
        got="split || ', with ' || reference_split || ' -> ' || target_split",
    ),
    "held": Rule(what="a held-out condition is trained on", wanted="pairs for testing only", breaks="split = 'train' and held", got="condition"),
    "held_clip": Rule(
        what="a training pair shows a clip of a held-out condition",
        wanted="clips of conditions that are trained on",
        breaks="split = 'train' and (reference_clip_id in (from untaught) or target_clip_id in (from untaught))",
        got="if(reference_clip_id in (from untaught), reference_clip_id, target_clip_id)",
    ),
    "copy": Rule(
        what="a training pair shows a copy of what is held out",
        wanted="content of train only",
        breaks="split = 'train' and (reference_content in (from torn) or target_content in (from torn))",
        got="replace(if(reference_content in (from torn), reference_content, target_content), chr(31), '/')",
    ),
    "generation": Rule(
        what="conditions and pairs of a provider are of different generations",
        wanted="one generation",
        sql="select 'pairs (' || provider || ')', string_agg(distinct coalesce(generation[:12], 'none'), ', ' order by coalesce(generation[:12], 'none')) "
        "from (select provider, generation from pairs union select provider, generation from conditions) group by provider "
        "having count(distinct coalesce(generation, '')) > 1 or bool_or(generation is null)",
    ),
}


def pairs(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Every rule of RULES holds for every pair; one finding per broken rule: its first case, and how many there are."""
    _prepare(catalog, connection)
    broken = _broken_sides(connection)
    remedy = f"Pair again: vapdata pairs --catalog {catalog.shown}"
    for name, rule in RULES.items():
        if rule.breaks and name not in broken:
            continue
        sql = rule.sql or f"select {_PAIR}, {rule.got} from sides where {rule.breaks}"
        for where, got, count in connection.execute(f"select *, count(*) over () from ({sql}) as broken(place, got) order by all limit 1").fetchall():
            more = f" (and {count - 1} more)" if count > 1 else ""
            yield Finding(check="pairs", what=rule.what, where=where, got=f"{got}{more}", wanted=rule.wanted, remedy=remedy)


def _broken_sides(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The rules about single pairs that some pair breaks."""
    rules = {name: rule for name, rule in RULES.items() if rule.breaks}
    flags = ", ".join(f"coalesce(bool_or({rule.breaks}), false)" for rule in rules.values())
    row = connection.execute(f"select {flags} from sides").fetchall()[0]
    return {name for name, is_broken in zip(rules, row, strict=True) if is_broken}


def _prepare(catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> None:
    """`sides`: every pair whose clips are there, with what is known of both; and what the rules look things up in."""
    named = "(select clip_id from conditions union select reference_clip_id from pairs union select target_clip_id from pairs)"
    connection.execute(f"create or replace temp table contents as {contents_sql(named)}")
    join_duplicates(catalog, connection, "contents")
    connection.execute("create or replace temp table torn as select content from contents join clips using (clip_id) group by content having min(split) <> max(split)")
    connection.execute(
        "create or replace temp table held as select distinct condition from pairs join clips on clip_id = target_clip_id where pairs.split <> 'train' and clips.split = 'train'"
    )
    connection.execute("create or replace temp table untaught as select distinct clip_id from conditions where refused is null and condition in (from held)")
    connection.execute(
        f"create or replace temp table counted as select {_KEY} as key, count(*) as many from pairs group by key having many not between {FEWEST_REFERENCES} and {MOST_REFERENCES}"
    )
    connection.execute("create or replace temp table known as select clip_id, video_id, split, origin, content from clips join contents using (clip_id)")
    side = "pairs.{0}_clip_id, {0}.video_id as {0}_video, {0}.split as {0}_split, {0}.origin as {0}_origin, {0}.content as {0}_content"
    shows = "{0}_member.score as {0}_score, {0}_member.clip_id is not null as {0}_shows"
    joined = (
        "join known as {0} on {0}.clip_id = pairs.{0}_clip_id left join conditions as {0}_member "
        "on {0}_member.clip_id = pairs.{0}_clip_id and {0}_member.condition = pairs.condition and {0}_member.provider = pairs.provider"
    )
    both = ("reference", "target")
    connection.execute(
        "create or replace temp view sides as select pair_id, pairs.condition, pairs.split, pairs.score, pairs.condition in (from held) as held, "
        f"{', '.join(text.format(each) for text in (side, shows) for each in both)} from pairs {' '.join(map(joined.format, both))}"
    )
