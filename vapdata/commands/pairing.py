"""Commands about pairs: pairs, conditions, export. Exercised by `pytest tests/pipelines/test_synthesize.py`."""

import shlex
from typing import Any

import click

from vapdata.commands.options import address_option, catalog_option, open_catalog, places_of, print_lines, set_option, typed_command


@click.command()
@catalog_option
@click.option("--provider", "names", multiple=True, metavar="NAME", help="Who finds or makes members; may be repeated.  [default: all that need no model and no network]")
@click.option("--where", metavar="SQL", help="Which clips may be members, and sources of made ones: a predicate over clips_wide.")
@click.option("--recipe", metavar="NAME", help="What made videos are rendered for and built with.  [default: the newest build's]")
@click.option("--root", "roots", multiple=True, metavar="DATASET=PATH", help="Folder of a dataset that videos are made from; may be repeated.  [default: data/<source>]")
@address_option
@set_option
def pairs(catalog: str, names: tuple[str, ...], where: str | None, recipe: str | None, roots: tuple[str, ...], address: str | None, settings: tuple[str, ...]) -> None:
    """Pairs clips that show the same condition in different content.

    A provider's conditions and pairs are replaced whole; the same clips and settings give the same pairs. How clips
    are paired: --set pairs.FIELD=VALUE, e.g. pairs.seed, pairs.least_score, pairs.most_members, pairs.alignment=clip.
    """
    open_catalog(catalog)

    from pipelines.pairing import Pairing
    from pipelines.synthesize import Request, synthesize
    from vapdata import settings as parsing
    from vapdata.conditions import BY_DEFAULT, PROVIDERS
    from vapdata.registry import load
    from vapdata.screen import progress

    chosen = {name: load(PROVIDERS, name, "provider") for name in dict.fromkeys(names or BY_DEFAULT)}
    typed = [parsing.typed(parsing.parse(text), {**chosen, "pairs": Pairing}) for text in settings]

    def of(step: str) -> dict[str, Any]:
        return {field: value for each, field, value in typed if each == step}

    providers = tuple(plugin(**of(name)) for name, plugin in chosen.items())
    pairing, places = Pairing(**of("pairs")), places_of(roots)
    request = Request(catalog=catalog, providers=providers, pairing=pairing, where=where, recipe=recipe, roots=places, address=address, lenient=not names, command=typed_command())
    with progress() as show:
        summary = synthesize(request, show=show)
    print_lines(summary.lines())


@click.command()
@catalog_option
@click.option("--preview", metavar="NAME", help="Write a picture of this condition's members, side by side, instead of the list.")
@click.option("--output", metavar="FILE", help="Where the picture goes.  [default: NAME.png]")
def conditions(catalog: str, preview: str | None, output: str | None) -> None:
    """Lists the conditions that clips show: members, pairs and mean alignment, per category."""
    opened = open_catalog(catalog)
    if preview is not None:
        from pipelines.preview import preview as draw

        output = output or f"{preview}.png"
        print_lines([f"{output}: {draw(opened, preview, output)} members of {preview}"])
        return

    from catalogs.conditions import conditions as ask
    from vapdata.screen import print_table

    found = ask(opened)
    for category in dict.fromkeys(each.category for each in found):
        rows = [each for each in found if each.category == category]
        title = f"{category}: {len(rows)} conditions, {sum(each.members for each in rows)} members, {sum(each.pairs for each in rows)} pairs"
        print_table(["condition", "provider", "members", "targets", "pairs", "mean score", "splits", "refused"], [each.cells() for each in rows], title=title)
    if not found:
        print_lines([f"{catalog}: no clip is known to show a condition; find some: vapdata pairs --catalog {shlex.quote(catalog)}"])


@click.command()
@catalog_option
@click.option("--format", "form", required=True, metavar="NAME", help="Whose trainer reads it; `vapdata explain` lists the exports.")
@click.option("--out", required=True, metavar="FOLDER", help="What to write: a folder that is empty or not there yet.")
@click.option("--where", metavar="SQL", help="Which clips: a predicate over clips_wide.")
@click.option("--root", "roots", multiple=True, metavar="DATASET=PATH", help="Folder of a dataset whose videos are exported; may be repeated.  [default: data/<source>]")
@click.option("--copy", is_flag=True, help="Copy videos instead of linking them (hard links).")
def export(catalog: str, form: str, out: str, where: str | None, roots: tuple[str, ...], copy: bool) -> None:
    """Writes captioned clips, and pairs, as a folder that another trainer reads: whole or not at all."""
    from catalogs.exports import EXPORTS
    from pipelines import export as exporting
    from vapdata.registry import load
    from vapdata.screen import progress

    request = exporting.Request(catalog=catalog, format=load(EXPORTS, form, "export")(), out=out, where=where, roots=places_of(roots), copy=copy)
    with progress() as show:
        summary = exporting.export(request, show=show)
    print_lines(summary.lines())
