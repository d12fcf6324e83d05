"""The command line: each command parses, calls one function and prints.

    vapdata build --source synthetic          dataset -> catalog
    vapdata query "select * from clips_wide"  a question to a catalog

The one file of this package that looks up: it calls storage and pipelines, with imports inside the commands, so
that `vapdata --help` loads nothing heavy. Exit status: 0 done, 1 the run could not finish, 2 the call was wrong.
Exercised by `pytest tests/vapdata/test_cli.py`.
"""

import atexit
import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from vapdata import __version__
from vapdata.errors import CallError, VapdataError

if TYPE_CHECKING:
    import catalogs.store

DEFAULT_RECIPE = "tiny"

_catalog = click.option("--catalog", default="catalog", show_default=True, metavar="PATH", help="Folder or s3://, gs:// address of the catalog.")
_set = click.option("--set", "settings", multiple=True, metavar="STEP.FIELD=VALUE", help="Override one field of a step; may be repeated.")
_recipe = click.option("--recipe", metavar="NAME", help=f"A recipe's name, or file.py:function. Default: {DEFAULT_RECIPE}.")
_address = click.option("--address", metavar="ADDR", help="Join a running Ray cluster: auto, or host:port. Default: a private Ray on this machine.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vapdata")
def commands() -> None:
    """Video datasets to Parquet catalogs of clips, scores, captions, masks, latents and text embeddings.

    Start with: vapdata build --source synthetic
    """


@commands.command()
@click.option("--source", "source_name", required=True, metavar="NAME", help="Kind of dataset; `vapdata explain` lists them.")
@click.option("--root", metavar="PATH", help="Folder that the dataset lies in.  [default: data/<source>]")
@_catalog
@_recipe
@click.option("--name", metavar="NAME", help="Name of this dataset in the catalog.  [default: the source's name]")
@click.option("--where", metavar="SQL", help="Which clips are encoded: a predicate over clips_wide, in place of the recipe's.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N videos of the sorted list.")
@click.option("--plan", "only_plan", is_flag=True, help="Print shards, bytes and a time estimate from a small sample; write nothing to the catalog.")
@_address
@_set
def build(
    source_name: str,
    root: str | None,
    catalog: str,
    recipe: str | None,
    name: str | None,
    where: str | None,
    limit: int | None,
    only_plan: bool,
    address: str | None,
    settings: tuple[str, ...],
) -> None:
    """Builds a catalog from a dataset, or goes on with one.

    Run again after a kill, with more files, another --where or another recipe, it does only what is missing.
    """
    root = root if root is not None else _said("--root", os.path.join("data", source_name))
    recipe = recipe if recipe is not None else _said("--recipe", DEFAULT_RECIPE)

    from pipelines.prepare import Request
    from pipelines.prepare import build as run
    from pipelines.recipes import recipe as named
    from pipelines.recipes import with_settings
    from vapdata import settings as parsing
    from vapdata import tiny, weights
    from vapdata.registry import load
    from vapdata.screen import progress
    from vapdata.sources import SOURCES

    plugin = load(SOURCES, source_name, "source")
    made = named(recipe)
    steps = {**made.steps(), source_name: plugin}
    typed = [parsing.typed(parsing.parse(text), steps) for text in settings]
    own = {field: value for step, field, value in typed if step == source_name}
    source = plugin(**{"root": root, "dataset": name or source_name, **own})
    made = with_settings(made, [each for each in typed if each[0] != source_name])
    request = Request(source=source, catalog=catalog, recipe=made, where=where, limit=limit, address=address, command=_typed_command())
    if only_plan:
        from pipelines.estimate import estimate

        _print_lines(estimate(request).lines())
        return
    with progress() as show:
        summary = run(request, show=show)
    _print_lines(summary.lines())
    if any(weights.is_tiny(weight) for encoder in made.encoders for weight in encoder.weights()):
        _print_lines([f"note     {tiny.NOTE}"])


@commands.command()
@_catalog
@click.option("--provider", "names", multiple=True, metavar="NAME", help="Who finds or makes members; may be repeated.  [default: all that need no model and no network]")
@click.option("--where", metavar="SQL", help="Which clips may be members, and sources of made ones: a predicate over clips_wide.")
@click.option("--recipe", metavar="NAME", help="What made videos are rendered for and built with.  [default: the newest build's]")
@click.option("--root", "roots", multiple=True, metavar="DATASET=PATH", help="Folder of a dataset that videos are made from; may be repeated.  [default: data/<source>]")
@_address
@_set
def pairs(catalog: str, names: tuple[str, ...], where: str | None, recipe: str | None, roots: tuple[str, ...], address: str | None, settings: tuple[str, ...]) -> None:
    """Pairs clips that show the same condition in different content.

    A provider's conditions and pairs are replaced whole; the same clips and settings give the same pairs. How clips
    are paired: --set pairs.FIELD=VALUE, e.g. pairs.seed, pairs.least_score, pairs.most_members.
    """
    _open(catalog)

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
    pairing, places = Pairing(**of("pairs")), _places(roots)
    request = Request(catalog=catalog, providers=providers, pairing=pairing, where=where, recipe=recipe, roots=places, address=address, lenient=not names, command=_typed_command())
    with progress() as show:
        summary = synthesize(request, show=show)
    _print_lines(summary.lines())


@commands.command()
@_catalog
@click.option("--preview", metavar="NAME", help="Write a picture of this condition's members, side by side, instead of the list.")
@click.option("--output", metavar="FILE", help="Where the picture goes.  [default: NAME.png]")
def conditions(catalog: str, preview: str | None, output: str | None) -> None:
    """Lists the conditions that clips show: members, pairs and mean alignment, per category."""
    opened = _open(catalog)
    if preview is not None:
        from pipelines.preview import preview as draw

        output = output or f"{preview}.png"
        _print_lines([f"{output}: {draw(opened, preview, output)} members of {preview}"])
        return

    from catalogs.conditions import conditions as ask
    from vapdata.screen import print_table

    found = ask(opened)
    for category in dict.fromkeys(each.category for each in found):
        rows = [each for each in found if each.category == category]
        title = f"{category}: {len(rows)} conditions, {sum(each.members for each in rows)} members, {sum(each.pairs for each in rows)} pairs"
        print_table(["condition", "provider", "members", "targets", "pairs", "mean score", "splits", "refused"], [each.cells() for each in rows], title=title)
    if not found:
        _print_lines([f"{catalog}: no clip is known to show a condition; find some: vapdata pairs --catalog {shlex.quote(catalog)}"])


@commands.command()
@_catalog
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

    request = exporting.Request(catalog=catalog, format=load(EXPORTS, form, "export")(), out=out, where=where, roots=_places(roots), copy=copy)
    with progress() as show:
        summary = exporting.export(request, show=show)
    _print_lines(summary.lines())


@commands.command()
@_catalog
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True, help="How the answer is written.")
@click.option("--output", metavar="FILE", help="Write the answer there instead of on the screen; needed for parquet.")
@click.argument("sql")
def query(catalog: str, form: str, output: str | None, sql: str) -> None:
    """Asks the catalog one SELECT or EXPLAIN statement, in DuckDB's SQL.

    Every table is a view of its newest rows; clips_wide has a column per score. Nothing can be written or read
    elsewhere. `vapdata explain TABLE` lists a table's columns.
    """
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise CallError("--format parquet is no text for a terminal; add --output FILE")
    opened = _open(catalog)
    if output is not None and _lies_within(output, catalog):
        raise CallError(f"--output {output} lies in the catalog {catalog}, where it would count as data; name a file elsewhere")

    from catalogs.queries import answer
    from vapdata.screen import print_answer, write_answer

    table = answer(opened, sql)
    if form == "table" and output is None:
        print_answer(table)
    else:
        write_answer(table, "csv" if form == "table" else form, output)


@commands.command()
@_catalog
def status(catalog: str) -> None:
    """Says per stage how many clips are done, failed, rejected and to do."""
    from catalogs.progress import status as ask
    from vapdata.screen import print_table

    now = ask(_open(catalog))
    columns = ("planned", "done", "failed", "rejected", "to_do")
    _print_lines([f"{catalog}: {now.videos} videos ({now.not_planned} rows without a usable file), {now.clips} clips, {now.hours:.2f} hours"])
    if now.predicate is not None:
        _print_lines([f"encoded where: {now.predicate}"])
    print_table(["stage", "kind", *columns], [[stage.name, stage.kind, *(getattr(stage, name) for name in columns)] for stage in now.stages])
    if now.failures:
        print_table(["failures", "count"], list(now.failures.items()))
        _print_lines([f'see them: vapdata query --catalog {shlex.quote(catalog)} "select step, clip_id, video_id, message from failures"'])
    if now.holder is not None:
        _print_lines([f"being written now: {now.holder}"])


@commands.command()
@_catalog
def verify(catalog: str) -> int:
    """Checks that the catalog keeps its promises; lists what is broken, and then exits with 1."""
    from catalogs.verify import verify as check

    findings = check(_open(catalog))
    _print_lines(str(finding) for finding in findings)
    _print_lines([f"{catalog}: clean" if not findings else f"{catalog}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"])
    return 1 if findings else 0


@commands.command()
@_catalog
@click.option("--step", metavar="STEP", help="Only failures of this step, e.g. scan or clip_mask.")
@click.option("--clip", metavar="ID", help="Only failures of this clip or video.")
def retry(catalog: str, step: str | None, clip: str | None) -> None:
    """Lets the next build try again what has failed for good, or three times."""
    from pipelines.retry import retry as forgive

    count = forgive(_open(catalog), step=step, clip=clip, command=_typed_command())
    _print_lines([f"{count} failure{'' if count == 1 else 's'} will be tried again" + ("; run the build's command again" if count else "; which there are: vapdata status")])


@commands.command()
@_recipe
@_set
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
        needed = list(dict.fromkeys(weight for encoder in made.encoders for weight in encoder.weights()))
        rows = [row for weight in needed for row in _weight_rows(weight)]
        print_table(["model", "file", "size", "here", "how to get it"], rows, title=f"recipe {name}")
        lacking += len(weights.missing(needed))
    return 1 if recipe and lacking else 0


@commands.command()
@click.argument("name", required=False)
def explain(name: str | None) -> None:
    """Explains a source, filter, captioner, encoder, provider, export, recipe or table; without NAME, lists them."""
    from vapdata.registry import did_you_mean

    known = _explainable()
    if name is None:
        _print_lines(f"{kind + 's':<12}{', '.join(things)}" for kind, things in known.items())
        _print_lines(["what one of them is: vapdata explain NAME"])
        return
    found = [(kind, things[name]) for kind, things in known.items() if name in things]
    if not found:
        every = [each for things in known.values() for each in things]
        raise CallError(f"there is nothing called {name!r}{did_you_mean(name, every)}. `vapdata explain` lists what there is.")
    for kind, lines in found:
        _print_lines([f"{kind} {name}", "", *lines(), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vapdata`: runs one command and leaves with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    atexit.register(_leave)  # the first that is registered is the last that runs
    _leave_with.append(run(sys.argv[1:] if arguments is None else arguments))
    sys.exit(_leave_with[-1])


def run(arguments: Sequence[str]) -> int:
    """Runs one command; its exit status. No mistake of a user's gets out as a traceback."""
    try:
        return int(commands.main(args=list(arguments), prog_name="vapdata", standalone_mode=False) or 0)
    except click.Abort:
        return _say("stopped; the same command goes on where this one was", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CallError as error:
        return _say(str(error), 2)
    except VapdataError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on where this one was", 130)
    except OSError as error:
        return _say(_of_the_system(error), 1)


_leave_with: list[int] = []


def _leave() -> None:
    """Ends the process before the interpreter takes itself apart, after everybody else's clean-up.

    DuckDB 2.0's binding fills the screen with complaints about leaked types when it is taken apart after Ray.
    """
    if _leave_with:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a reader that has gone, a stream that was closed
                stream.flush()
        os._exit(_leave_with[-1])


def _say(message: str, status: int) -> int:
    click.echo(f"vapdata: {message}", err=True)
    return status


def _of_the_system(error: OSError) -> str:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    what = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "make room on that disk",
        errno.EDQUOT: "make room in your quota",
        errno.EACCES: "check who may read and write there",
        errno.EPERM: "check who may read and write there",
        errno.EROFS: "name a place that can be written",
    }.get(error.errno or 0, "check the path and the machine")
    return f"{where}{what}; {remedy}, then run the same command again: what was committed is kept"


def _places(roots: Sequence[str]) -> dict[str, str]:
    """--root DATASET=PATH as a mapping."""
    wrong = [text for text in roots if not all(text.partition("="))]
    if wrong:
        raise CallError(f"--root {wrong[0]}: got no dataset and path; type --root DATASET=PATH, e.g. --root synthetic=data/synthetic")
    return {dataset: path for dataset, _, path in (text.partition("=") for text in roots)}


def _said(option: str, value: str) -> str:
    """`value`, after a line that says it was taken by default."""
    click.echo(f"{option} {value} (default)", err=True)
    return value


def _typed_command() -> str:
    return shlex.join(["vapdata", *sys.argv[1:]])


def _open(uri: str) -> "catalogs.store.Catalog":
    from catalogs.store import Catalog

    return Catalog.open(uri)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


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


def _lies_within(path: str, folder: str) -> bool:
    return "://" not in folder and os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)


if __name__ == "__main__":
    main()
