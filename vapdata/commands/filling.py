"""Commands that add to a catalog without building, or show what it would take: backfill, dedup, select. Exercised by `pytest tests/pipelines/test_backfill.py`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vapdata.commands.options import address_option, catalog_option, places_of, print_lines, set_option, typed_command
from vapdata.errors import CallError

if TYPE_CHECKING:
    from pipelines.recipes import Recipe


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@catalog_option
@click.option("--where", metavar="SQL", help="Which clips: a predicate over clips_wide.  [default: all; for encoders those that the newest build selected]")
@click.option("--recipe", metavar="NAME", help="Whose settings, captions and grid count.  [default: the newest build's]")
@click.option("--root", "roots", multiple=True, metavar="DATASET=PATH", help="Folder of a dataset; may be repeated.  [default: data/<source>]")
@address_option
@set_option
def backfill(names: tuple[str, ...], catalog: str, where: str | None, recipe: str | None, roots: tuple[str, ...], address: str | None, settings: tuple[str, ...]) -> None:
    """Runs filters, captioners or encoders over the clips of a catalog.

    Decodes only what they need, and makes only the rows that are not there by the same settings. Run again after a
    kill, it goes on. Several names share one decode.
    """
    from pipelines import backfill as filling
    from vapdata import tiny, weights
    from vapdata.screen import progress

    places = places_of(roots)
    made = _recipe(catalog, recipe)
    steps, made = _steps(tuple(dict.fromkeys(names)), made, settings)
    request = filling.Request(catalog=catalog, steps=steps, recipe=made, where=where, roots=places, address=address, command=typed_command())
    with progress() as show:
        summary = filling.backfill(request, show=show)
    print_lines(summary.lines())
    small = [weight.repo for step in steps for weight in getattr(step, "weights", tuple)() if weights.is_tiny(weight)]
    if small:
        print_lines([f"note     {tiny.note(small)}"])


@click.command()
@catalog_option
@click.option("--method", "methods", multiple=True, type=click.Choice(["exact", "near", "semantic"]), help="How clips are compared; may be repeated.  [default: exact, near]")
@click.option("--where", metavar="SQL", help="Which clips are compared: a predicate over clips_wide.  [default: all]")
@click.option("--root", "roots", multiple=True, metavar="DATASET=PATH", help="Folder of a dataset; may be repeated.  [default: data/<source>]")
@address_option
@set_option
def dedup(catalog: str, methods: tuple[str, ...], where: str | None, roots: tuple[str, ...], address: str | None, settings: tuple[str, ...]) -> None:
    """Finds clips that show the same thing: the same frames, nearly the same, or the same by CLIP embeddings.

    The table `duplicates` says which clip is kept in whose place; nothing is deleted. Leave the others out with
    --where "not duplicate". How alike is the same: --set dedup.near=0.16, dedup.semantic=0.99.
    """
    from pipelines import dedup as finding
    from vapdata import settings as parsing
    from vapdata.filters.embedding import Embedding
    from vapdata.filters.fingerprint import Fingerprint
    from vapdata.screen import progress

    places = places_of(roots)
    plugins = {"dedup": finding.Comparing, "embedding": Embedding, "fingerprint": Fingerprint}
    typed = [parsing.typed(parsing.parse(text), plugins) for text in settings]
    made = {name: plugin(**{field: value for step, field, value in typed if step == name}) for name, plugin in plugins.items()}
    request = finding.Request(
        catalog=catalog,
        recipe=_recipe(catalog, None),
        methods=tuple(dict.fromkeys(methods)) or finding.BY_DEFAULT,
        comparing=made["dedup"],
        embedding=made["embedding"],
        fingerprint=made["fingerprint"],
        where=where,
        roots=places,
        address=address,
        command=typed_command(),
    )
    with progress() as show:
        summary = finding.dedup(request, show=show)
    print_lines(summary.lines())


@click.command()
@catalog_option
@click.option("--where", metavar="SQL", help="The predicate over clips_wide.  [default: the recipe's]")
@click.option("--recipe", metavar="NAME", help="Whose predicate, grid and products count.  [default: the newest build's]")
def select(catalog: str, where: str | None, recipe: str | None) -> None:
    """Shows what a predicate keeps, condition by condition and jointly, and what encoding it would take.

    With the clips on each side of every threshold. Writes nothing; `vapdata build` asks the very same question.
    """
    from pipelines.select import preview

    print_lines(preview(catalog, _recipe(catalog, recipe), where).lines())


def _recipe(catalog: str, name: str | None) -> "Recipe":
    """The recipe called `name`; without one the newest build's, or the default where that has no name."""
    from pipelines.recipes import recipe
    from pipelines.synthesize import newest_recipe
    from vapdata.commands.options import DEFAULT_RECIPE, open_catalog

    opened = open_catalog(catalog)
    if name is not None:
        return recipe(name)
    try:
        return recipe(newest_recipe(opened))
    except CallError:  # built with a recipe of one's own, or filled by hand
        return dataclasses.replace(recipe(DEFAULT_RECIPE), encode=())


def _steps(names: Sequence[str], made: "Recipe", settings: Sequence[str]) -> tuple[tuple[Any, ...], "Recipe"]:
    """The steps called so, as the recipe has them or as they are by default, with `--set` applied; and the recipe they work with."""
    from pipelines.recipes import with_settings
    from vapdata import settings as parsing

    grid = {"sampling": made.sampling}
    found = {name: _step(name, made) for name in names}
    typed = [parsing.typed(parsing.parse(text), {**found, **grid}) for text in settings]
    made = with_settings(made, [each for each in typed if each[0] == "sampling"])
    steps = []
    for name in names:
        own = {field: value for step, field, value in typed if step == name}
        steps.append(dataclasses.replace(_step(name, made), **own))
    return tuple(steps), made


def _step(name: str, made: "Recipe") -> Any:
    from vapdata.captioners import CAPTIONERS
    from vapdata.encoders import ENCODERS
    from vapdata.filters import FILTERS
    from vapdata.registry import did_you_mean, load
    from vapdata.step import step_name

    named = {step_name(step): step for step in (*made.scan, *made.lookers, *made.encoders)}
    if name in named:
        return named[name]
    every = {**FILTERS, **CAPTIONERS, **ENCODERS}
    if name not in every:
        raise CallError(f"{name!r} is no filter, captioner or encoder{did_you_mean(name, every)}. Known: {', '.join(sorted({*every, *named}))}.")
    plugin = load(every, name, "step")
    if name == "cuts" or (name in CAPTIONERS and not hasattr(plugin, "reads")):
        raise CallError(f"{name} works while videos are scanned, and cannot be filled in afterwards; build into a new --catalog")
    fields = {field.name: field for field in dataclasses.fields(plugin)}
    given = {field: value for field, value in (("backbone", made.backbone), ("sampling", made.sampling)) if field in fields}
    if name in ENCODERS and not made.encode:
        raise CallError(f"{name} needs to know for which backbone and at which grid: type --recipe NAME")
    return plugin(**given)
