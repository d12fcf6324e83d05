"""Commands that prepare a dataset: build, retry. Exercised by `pytest tests/pipelines/test_build.py`."""

import os
from typing import TYPE_CHECKING

import click

from vapdata.commands.options import DEFAULT_RECIPE, address_option, catalog_option, open_catalog, print_lines, recipe_option, said, set_option, typed_command
from vapdata.errors import CallError

if TYPE_CHECKING:
    from vapdata.step import Describer


@click.command()
@click.option("--source", "source_name", required=True, metavar="NAME", help="Kind of dataset; `vapdata explain` lists them.")
@click.option("--root", metavar="PATH", help="Folder that the dataset lies in.  [default: data/<source>]")
@catalog_option
@recipe_option
@click.option("--name", metavar="NAME", help="Name of this dataset in the catalog.  [default: the source's name]")
@click.option("--captioner", metavar="NAME", help="Have a model describe the clips that are encoded, e.g. qwen_vl or openai_api, and encode its texts.")
@click.option("--where", metavar="SQL", help="Which clips are encoded: a predicate over clips_wide, in place of the recipe's.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N videos of the sorted list.")
@click.option("--plan", "only_plan", is_flag=True, help="Print shards, bytes and a time estimate from a small sample; write nothing to the catalog.")
@address_option
@set_option
def build(
    source_name: str,
    root: str | None,
    catalog: str,
    recipe: str | None,
    name: str | None,
    captioner: str | None,
    where: str | None,
    limit: int | None,
    only_plan: bool,
    address: str | None,
    settings: tuple[str, ...],
) -> None:
    """Builds a catalog from a dataset, or goes on with one.

    Run again after a kill, with more files, another --where or another recipe, it does only what is missing.
    """
    root = root if root is not None else said("--root", os.path.join("data", source_name))
    recipe = recipe if recipe is not None else said("--recipe", DEFAULT_RECIPE)

    from pipelines.prepare import Request
    from pipelines.prepare import build as run
    from pipelines.recipe import preferring, with_describer, with_settings
    from pipelines.recipes import recipe as named
    from vapdata import settings as parsing
    from vapdata import tiny, weights
    from vapdata.registry import load
    from vapdata.screen import progress
    from vapdata.sources import SOURCES

    plugin = load(SOURCES, source_name, "source")
    made = named(recipe)
    if captioner is not None and captioner not in made.steps():
        made = with_describer(made, _describer(captioner))
    steps = {**made.steps(), source_name: plugin}
    typed = [parsing.typed(parsing.parse(text), steps) for text in settings]
    own = {field: value for step, field, value in typed if step == source_name}
    source = plugin(**{"root": root, "dataset": name or source_name, **own})
    made = with_settings(made, [each for each in typed if each[0] != source_name])
    if captioner is not None:
        made = preferring(made, captioner)
    request = Request(source=source, catalog=catalog, recipe=made, where=where, limit=limit, address=address, command=typed_command())
    if only_plan:
        from pipelines.estimate import estimate

        print_lines(estimate(request).lines())
        return
    with progress() as show:
        summary = run(request, show=show)
    print_lines(summary.lines())
    small = [each.repo for each in made.weights() if weights.is_tiny(each)]
    if small:
        print_lines([f"note     {tiny.note(small)}"])


def _describer(name: str) -> "Describer":
    """The captioner called `name`, of those that look at frames, as it is by default. Raises CallError."""
    from vapdata.captioners import CAPTIONERS
    from vapdata.registry import load
    from vapdata.step import kind_of

    plugin = load(CAPTIONERS, name, "captioner")
    if kind_of(plugin) != "describer":
        models = ", ".join(each for each in CAPTIONERS if kind_of(load(CAPTIONERS, each, "captioner")) == "describer")
        raise CallError(f"--captioner {name}: it reads what the dataset says, which every build does. Those that look at frames are {models}.")
    return plugin()


@click.command()
@catalog_option
@click.option("--step", metavar="STEP", help="Only failures of this step, e.g. scan or clip_mask.")
@click.option("--clip", metavar="ID", help="Only failures of this clip or video.")
def retry(catalog: str, step: str | None, clip: str | None) -> None:
    """Lets the next build try again what has failed for good, or three times."""
    from pipelines.retry import retry as forgive

    count = forgive(open_catalog(catalog), step=step, clip=clip, command=typed_command())
    print_lines([f"{count} failure{'' if count == 1 else 's'} will be tried again" + ("; run the build's command again" if count else "; which there are: vapdata status")])
