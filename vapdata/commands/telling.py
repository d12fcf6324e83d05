"""Commands about what there is: models, explain. Exercised by `pytest tests/vapdata/test_cli.py`."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import click

from vapdata.commands.options import print_lines, recipe_option, set_option
from vapdata.errors import CallError


@click.command()
@recipe_option
@set_option
def models(recipe: str | None, settings: tuple[str, ...]) -> int:
    """Lists the weights that a recipe needs, whether they are here, and how to get them. Exits with 1 if any is missing."""
    from pipelines.recipes import RECIPES, with_settings
    from pipelines.recipes import recipe as named
    from vapdata import settings as parsing
    from vapdata import weights
    from vapdata.screen import print_table

    lacking = 0
    for name in [recipe] if recipe else [each for each, make in RECIPES.items() if each == make().name]:
        made = named(name)
        made = with_settings(made, [parsing.typed(parsing.parse(text), made.steps()) for text in settings])
        needed = list(dict.fromkeys(made.weights()))
        rows = [row for weight in needed for row in _weight_rows(weight)]
        print_table(["model", "file", "size", "here", "how to get it"], rows, title=f"recipe {name}")
        lacking += len(weights.missing(needed))
    return 1 if recipe and lacking else 0


@click.command()
@click.argument("name", required=False)
def explain(name: str | None) -> None:
    """Explains a source, filter, captioner, encoder, provider, export, recipe or table; without NAME, lists them."""
    from vapdata.registry import did_you_mean

    known = _explainable()
    if name is None:
        print_lines(f"{kind + 's':<12}{', '.join(things)}" for kind, things in known.items())
        print_lines(["what one of them is: vapdata explain NAME"])
        return
    found = [(kind, things[name]) for kind, things in known.items() if name in things]
    if not found:
        every = [each for things in known.values() for each in things]
        raise CallError(f"there is nothing called {name!r}{did_you_mean(name, every)}. `vapdata explain` lists what there is.")
    for kind, lines in found:
        print_lines([f"{kind} {name}", "", *lines(), ""])


def _explainable() -> dict[str, dict[str, Callable[[], Iterable[str]]]]:
    """By kind and name: what tells about it."""
    from catalogs.exports import EXPORTS
    from catalogs.tables import TABLES
    from pipelines.recipes import RECIPES
    from vapdata.captioners import CAPTIONERS
    from vapdata.conditions import PROVIDERS
    from vapdata.encoders import ENCODERS
    from vapdata.explain import plugin_lines, recipe_lines, table_lines
    from vapdata.filters import FILTERS
    from vapdata.registry import load
    from vapdata.sources import SOURCES

    plugins = {"source": SOURCES, "filter": FILTERS, "captioner": CAPTIONERS, "encoder": ENCODERS, "provider": PROVIDERS, "export": EXPORTS}
    return {
        **{kind: {name: partial(lambda *of: plugin_lines(load(*of)), registry, name, kind) for name in registry} for kind, registry in plugins.items()},
        "recipe": {name: partial(recipe_lines, make) for name, make in RECIPES.items()},
        "table": {name: partial(table_lines, table) for name, table in TABLES.items()},
    }


def _weight_rows(weight: Any) -> list[list[str]]:
    """A row for each file of a model; how to get it stands beside the first that is not here."""
    from vapdata import weights

    if weights.is_tiny(weight):
        return [[weight.repo, f"{weight.subfolder}/" if weight.subfolder else "", "", "yes", "made here on first use"]]
    files = weights.files(weight)
    first_absent = next((file.name for file in files if not file.here), None)
    return [
        [weight.repo, file.name, _size(file), "yes" if file.here else "no", weight.how if file.name == first_absent else ""] for file in files
    ]


def _size(file: Any) -> str:
    if file.bytes is None:
        return "small"
    value = f"{file.bytes / 1e9:.2f} GB" if file.bytes >= 1e7 else f"{file.bytes / 1e3:.1f} kB"
    return value if file.here else f"about {value}"
