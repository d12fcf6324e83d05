"""Commands that only read a catalog: query, status, verify. Exercised by `pytest tests/vapdata/test_cli.py`."""

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from vapdata.commands.options import catalog_option, open_catalog, print_lines
from vapdata.errors import CallError

if TYPE_CHECKING:
    import numpy as np

    from catalogs.store import Catalog
    from catalogs.verify import Check


@click.command()
@catalog_option
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
    opened = open_catalog(catalog)
    if output is not None and _lies_within(output, catalog):
        raise CallError(f"--output {output} lies in the catalog {catalog}, where it would count as data; name a file elsewhere")

    from catalogs.queries import answer
    from vapdata.screen import print_answer, write_answer

    table = answer(opened, sql)
    if form == "table" and output is None:
        print_answer(table)
    else:
        write_answer(table, "csv" if form == "table" else form, output)


@click.command()
@catalog_option
def status(catalog: str) -> None:
    """Says per stage how many clips are done, failed, rejected and to do."""
    from catalogs.progress import status as ask
    from vapdata.screen import print_table

    now = ask(open_catalog(catalog))
    columns = ("planned", "done", "failed", "rejected", "to_do")
    print_lines([f"{catalog}: {now.videos} videos ({now.not_planned} rows without a usable file), {now.clips} clips, {now.hours:.2f} hours"])
    if now.predicate is not None:
        print_lines([f"encoded where: {now.predicate}"])
    print_table(["stage", "kind", *columns], [[stage.name, stage.kind, *(getattr(stage, name) for name in columns)] for stage in now.stages])
    if now.failures:
        print_table(["failures", "count"], list(now.failures.items()))
        print_lines([f'see them: vapdata query --catalog {shlex.quote(catalog)} "select step, clip_id, video_id, message from failures"'])
    if now.holder is not None:
        print_lines([f"being written now: {now.holder}"])


@click.command()
@catalog_option
@click.option("--clip", metavar="MODEL", help="CLIP that embedded the clips, where it is a local folder; captions are compared by it.  [default: found by its id]")
def verify(catalog: str, clip: str | None) -> int:
    """Checks that the catalog keeps its promises; lists what is broken, and then exits with 1.

    Where clips are embedded (`vapdata backfill embedding`) and that CLIP is on this machine, captions that fit another
    clip better than their own are listed too.
    """
    from catalogs.verify import verify as check

    opened = open_catalog(catalog)
    handed, notes = _caption_checks(opened, clip)
    findings = check(opened, handed=handed)
    print_lines(str(finding) for finding in findings)
    print_lines(notes)
    print_lines([f"{catalog}: clean" if not findings else f"{catalog}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"])
    return 1 if findings else 0


def _caption_checks(opened: "Catalog", model: str | None) -> tuple[list["Check"], list[str]]:
    """The checks of captions that the catalog's embeddings and the models on this machine allow, and a line for each that they do not."""
    from catalogs.verify_captions import captions, embedded
    from catalogs.views import connect
    from vapdata import weights
    from vapdata.filters.clip_frames import clip_weight

    with contextlib.closing(connect(opened, ["features"])) as connection:
        found = embedded(connection)
    checks, notes = [], []
    for each in found:
        weight = clip_weight(model or each.model_id)
        absent = weights.missing([weight])
        if weights.is_tiny(weight) and model is None:
            notes.append(f"note     captions were not compared with clips: the numbers of {each.model_id} mean nothing")
        elif absent:
            notes.append(f"note     captions were not compared with clips: {absent[0]}, or name its folder: vapdata verify --clip FOLDER")
        elif (here := weights.revision(weight)) != each.revision:
            notes.append(f"note     captions were not compared with clips: {each.product} was made by revision {each.revision}, and {weight.repo} here is {here}")
        else:
            checks.append(partial(captions, product=each.product, embed=partial(_text_vectors, weight.repo)))
    return checks, notes


def _text_vectors(model: str, texts: Sequence[str]) -> "np.ndarray":
    """Unit vectors of `texts` by the CLIP called `model`."""
    import numpy as np

    from vapdata.filters.clip_frames import tower

    opened = tower(model, None)
    try:
        return np.stack([opened.text(text) for text in texts])
    finally:
        opened.close()


def _lies_within(path: str, folder: str) -> bool:
    return "://" not in folder and os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
