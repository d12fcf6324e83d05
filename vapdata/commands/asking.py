"""Commands that only read a catalog: query, status, verify. Exercised by `pytest tests/vapdata/test_cli.py`."""

import os
import shlex
import sys

import click

from vapdata.commands.options import catalog_option, open_catalog, print_lines
from vapdata.errors import CallError


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
def verify(catalog: str) -> int:
    """Checks that the catalog keeps its promises; lists what is broken, and then exits with 1."""
    from catalogs.verify import verify as check

    findings = check(open_catalog(catalog))
    print_lines(str(finding) for finding in findings)
    print_lines([f"{catalog}: clean" if not findings else f"{catalog}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"])
    return 1 if findings else 0


def _lies_within(path: str, folder: str) -> bool:
    return "://" not in folder and os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
