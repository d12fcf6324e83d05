"""What steps that look at clips still have to do: filters of the scan, models that score, models that describe.

A clip is up to date for a step when the step's own rows are there, by the same settings, weights and author, and from
the text that is there now where one goes in. Exercised by `pytest tests/pipelines/test_backfill.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.newest import literal
from pipelines.recipes import Recipe
from pipelines.work import MAX_ATTEMPTS, Looked, create_selectable, register_preferences, restricted, wanted_sql
from vapdata import weights
from vapdata.clip import Caption
from vapdata.step import Describer, Filter, Judge, kind_of, step_name


def signature(step: Filter | Judge) -> str:
    """What stands in `scores.by`: the plug-in with its settings and, for a model, the weights. No path of this machine."""
    if kind_of(step) == "filter":
        return repr(step)
    shown = {field.name: getattr(step, field.name) for field in dataclasses.fields(step) if field.name != "batch"}
    settings = ", ".join(f"{name}={value!r}" for name, value in shown.items() if not (isinstance(value, str) and weights.is_local(value)))
    models = ", ".join(f"{weight.model_id}@{weights.revision(weight)}" for weight in step.weights())
    return f"{type(step).__name__}({settings})" + (f" with {models}" if models else "")


def looks_left(
    con: Any,
    dataset: str,
    recipe: Recipe,
    steps: Sequence[Filter | Judge | Describer],
    where: str,
    kinds: Mapping[str, str],
    *,
    only: Sequence[str] | None = None,
    any_length: bool = True,
) -> dict[str, list[Looked]]:
    """By shard, the clips of `dataset` that `where` selects and that some of `steps` still have to look at."""
    if not steps:
        return {}
    create_selectable(con, kinds)
    restrict = restricted(con, only)
    register_preferences(con, recipe)
    rows = con.sql(
        f"""
        with {wanted_sql(recipe, where, any_length=any_length)}, missing as ({" union all ".join(_missing_sql(step) for step in steps)})
        select c.* exclude (run_id, commit, created_at), v.uri, v.folder_fps, list(m.step order by m.step) as steps,
               any_value(w.text) as text, any_value(w.captioner) as captioner, any_value(w.role) as role
        from missing m join wanted w using (clip_id) join clips c using (clip_id) join videos v using (video_id)
        where {restrict}
        group by all order by c.shard, c.clip_id
        """,
        params={"dataset": dataset},
    ).to_arrow_table()
    found: dict[str, list[Looked]] = {}
    for row in rows.to_pylist():
        text, captioner, role = (row.pop(name) for name in ("text", "captioner", "role"))
        steps_of = tuple(row.pop("steps"))
        caption = None if text is None else Caption(text=text, captioner=captioner, role=role)
        found.setdefault(row["shard"], []).append(Looked(clip=row, steps=steps_of, caption=caption))
    return found


def reads_caption(step: Filter | Judge | Describer) -> bool:
    """Whether the clip's text goes into the step's answer."""
    return "caption" in getattr(step, "reads", ())


def _missing_sql(step: Filter | Judge | Describer) -> str:
    name = literal(step_name(step))
    told = "w.text is not null" if reads_caption(step) else "true"
    return f"""
      select w.clip_id, {name} as step from wanted w
      where {told} and ({" or ".join(f"not exists ({made})" for made in _made_sql(step))})
        and not exists (
          select 1 from failures f where f.clip_id = w.clip_id and f.step = {name}
            and (f.permanent or f.attempts >= {MAX_ATTEMPTS}))"""


def _made_sql(step: Filter | Judge | Describer) -> list[str]:
    """SELECTs of up-to-date rows of clip `w.clip_id`, each of which a clip that is done has."""
    if kind_of(step) == "describer":
        return [
            f"select 1 from captions t where t.clip_id = w.clip_id and t.captioner = {literal(step.name)} and t.role = {literal(role)} "
            f"and t.model_id = {literal(author.model_id)} and t.revision = {literal(author.revision)} and t.prompt_version = {literal(author.prompt_version)}"
            for role, author in step.writes().items()
        ]
    filters = ", ".join(map(literal, step.writes()))
    fresh = "and s.text_sha256 = w.sha" if reads_caption(step) else ""
    scores = [f"select 1 from scores s where s.clip_id = w.clip_id and s.filter in ({filters}) and s.by = {literal(signature(step))} {fresh}"]
    products = step.products() if kind_of(step) == "judge" else ()
    made = [f"select 1 from {product.table} t where t.clip_id = w.clip_id and t.product = {literal(product.name)}" for product in products]
    return [*(scores if step.writes() else []), *made]
