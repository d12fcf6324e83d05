"""What several commands share: their options, and how they open, print and say. Exercised by `pytest tests/vapdata/test_cli.py`."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from vapdata.errors import CallError

if TYPE_CHECKING:
    import catalogs.store

DEFAULT_RECIPE = "tiny"

catalog_option = click.option("--catalog", default="catalog", show_default=True, metavar="PATH", help="Folder or s3://, gs:// address of the catalog.")
set_option = click.option("--set", "settings", multiple=True, metavar="STEP.FIELD=VALUE", help="Override one field of a step; may be repeated.")
recipe_option = click.option("--recipe", metavar="NAME", help=f"A recipe's name, or file.py:function. Default: {DEFAULT_RECIPE}.")
address_option = click.option("--address", metavar="ADDR", help="A running Ray cluster: auto, or host:port; here: this process, no Ray. Default: a private Ray on this machine.")


def places_of(roots: Sequence[str]) -> dict[str, str]:
    """--root DATASET=PATH as a mapping."""
    wrong = [text for text in roots if not all(text.partition("="))]
    if wrong:
        raise CallError(f"--root {wrong[0]}: got no dataset and path; type --root DATASET=PATH, e.g. --root synthetic=data/synthetic")
    return {dataset: path for dataset, _, path in (text.partition("=") for text in roots)}


def said(option: str, value: str) -> str:
    """`value`, after a line that says it was taken by default."""
    click.echo(f"{option} {value} (default)", err=True)
    return value


def typed_command() -> str:
    """What was typed, as the `runs` table keeps it."""
    return shlex.join(["vapdata", *sys.argv[1:]])


def open_catalog(uri: str) -> "catalogs.store.Catalog":
    """The catalog at `uri`. Raises CallError when none is there."""
    from catalogs.store import Catalog

    return Catalog.open(uri)


def print_lines(lines: Iterable[str]) -> None:
    """Prints each line."""
    for line in lines:
        print(line)
