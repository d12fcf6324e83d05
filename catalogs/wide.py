"""The SQL of the two views that combine tables: `clips_wide` and the `failures` that still stand.

Plain text, so that the same SQL runs over a catalog's files and, in a worker, over a few rows in memory.
Exercised by `pytest tests/catalogs/test_views.py`.
"""

from collections.abc import Mapping, Sequence

from catalogs.newest import literal, quoted
from catalogs.tables import TABLES, TENSOR_TABLES

CAUTIOUS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "python_enable_replacements": "false"}
"""Settings of every connection: nothing is downloaded, and no Python variable passes for a table."""

ALL_FAILURES = "all_failures"
"""The view of all newest `failures` rows, those that have succeeded since included."""

NAMES = (*TABLES, "clips_wide", ALL_FAILURES)
"""Everything that a question may name."""


def wide_sql(value_filters: Sequence[str], label_filters: Sequence[str], *, copies: bool = True) -> str:
    """The SELECT behind `clips_wide`, over anything called `clips`, `scores` and `duplicates`.

    One row per clip: the columns of `clips`, a number per value filter, a sorted list of labels per label
    filter; null where the filter has not answered. A filter that is called like a column of `clips` gets
    `<name>_score`. `duplicate` is whether another clip is kept in its place; null for a clip that `vapdata dedup` has not seen.
    Without `copies` that column is left out, which is faster.
    """
    names = [*value_filters, *label_filters]
    seen = "(select clip_id, bool_or(keeper <> clip_id) as duplicate from duplicates group by clip_id) as seen on seen.clip_id = clips.clip_id"
    shown_first, joined = ("clips.*, seen.duplicate", f"clips left join {seen}") if copies else ("clips.*", "clips")
    if not names:
        return f"select {shown_first} from {joined}"
    clips = {column.name for column in TABLES["clips"].columns}
    answers = [f"any_value(value) filter (filter = {literal(name)})" for name in value_filters]
    answers += [f"list(label order by label) filter (filter = {literal(name)} and label is not null)" for name in label_filters]
    shown = [quoted(f"{name}_score" if name in clips else name) for name in names]
    pivoted = ", ".join(f"{answer} as answer{number}" for number, answer in enumerate(answers))
    columns = ", ".join(f"answers.answer{number} as {name}" for number, name in enumerate(shown))
    wanted = ", ".join(literal(name) for name in names)
    return (
        f"select {shown_first}, {columns} from {joined} left join "
        f"(select clip_id, {pivoted} from scores where filter in ({wanted}) group by clip_id) as answers on answers.clip_id = clips.clip_id"
    )


def failures_sql(products: Mapping[str, str | None]) -> str:
    """The SELECT behind `failures`, over `all_failures` and the other tables: what has not succeeded since.

    A failed plan is over when the video is planned, a failed scan when the video has a clip, a step on a clip
    when a row that it writes is newer. `products` says which step makes which product; a row of a step that is named
    without its variant (`vae_first` for `vae_first-2`) is over when any of its variants succeeded.
    """
    makers = " union all ".join(f"select {literal(name)} as product, {literal(step or name)} as step" for name, step in products.items())
    makers = f"select product, unnest([step, product, split_part(step, '-', 1)]) as step from ({makers})" if makers else "select '' as product, '' as step where false"
    successes = [
        "select video_id, null as clip_id, 'plan' as step, commit from videos where video_id in (select video_id from all_failures)",
        "select video_id, null as clip_id, 'render' as step, commit from videos where video_id in (select video_id from all_failures)",
        "select video_id, null as clip_id, 'scan' as step, commit from clips where video_id in (select video_id from all_failures)",
        "select video_id, clip_id, 'scan' as step, commit from clips where clip_id in (select clip_id from all_failures)",
        "select null, clip_id, filter, commit from scores where clip_id in (select clip_id from all_failures)",
        "select null, clip_id, lower(regexp_replace(regexp_extract(scores.by, '^\\w+'), '([a-z0-9])([A-Z])', '\\1_\\2', 'g')), commit from scores "
        "where clip_id in (select clip_id from all_failures)",  # a class's name in snake case is its plug-in's
        "select null, clip_id, captioner, commit from captions where clip_id in (select clip_id from all_failures)",
        *(
            f"select null, clip_id, makers.step, commit from {table} join makers using (product) where clip_id in (select clip_id from all_failures)"
            for table in TENSOR_TABLES
        ),
    ]
    return (
        f"with makers as ({makers}), successes as ({' union all '.join(successes)}) "
        "select failed.* from all_failures as failed where not exists (select 1 from successes as done where done.step = failed.step "
        "and done.commit > failed.commit and case when failed.clip_id is null then done.clip_id is null and done.video_id = failed.video_id "
        "else done.clip_id = failed.clip_id end)"
    )
