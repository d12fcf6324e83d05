"""A paper's ablation table, run at another scale and printed in the paper's order beside the paper's numbers.

    python -m train.ablate fca --catalog C --out DIR [--steps N] [--weights RUN]

Every row is an ordinary run in a folder of its own below --out, with the same seed, samples and noise as the others. A row
that is finished is not run again, one that was stopped goes on from its checkpoint. `table.json` and `table.md` in --out hold what
was printed. Tables stand in `train/ablations/`. Exercised by `pytest tests/train/test_ablate.py`.
"""

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from train.ablations import TABLES
from train.ablations.table import Row, Table
from train.launch import CATALOG, guarded, only_backbone
from vapdata.errors import CallError
from vapdata.registry import did_you_mean, load

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from train.run import Run
    from train.world import World

log = logging.getLogger("train")

OURS = ("eval_loss", "before", "drop", "standard error", "trained weights")
"""What is known of a row that was run here."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row as it is printed."""

    row: Row
    ours: Mapping[str, float] | None
    """OURS -> value; None where the row was not run."""


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.argument("method")
@click.option("--catalog", default=CATALOG, show_default=True, help="The catalog to train from.")
@click.option("--out", required=True, help="Folder of the table and of every row's run.")
@click.option("--backbone", help="Left out: the only one the catalog has latents of.")
@click.option("--recipe", help="The run that rows change; left out: the method's for this backbone.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps of every row; left out: the recipe's.")
@click.option("--weights", help="A diffusers folder (or a finished run of train.full) whose transformer replaces the backbone's.")
@click.option("--seed", type=int, help="Of every row.")
@click.option("--where", help="Which clips: SQL over clips_wide, as for vapdata build.")
@click.option("--device", help="cpu, cuda or cuda:N; left out: the GPU when there is one.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Run this row alone; repeat for several. The others are printed as far as they are there.")
@click.option("--set", "settings", multiple=True, metavar="PART.FIELD=VALUE", help="A field of every row's run, before the row's own settings.")
def command(**given: Any) -> None:
    """Runs METHOD's ablation table row by row and prints it beside the paper's numbers."""
    sys.exit(guarded(lambda: _ablate(given)))


def _ablate(given: Mapping[str, Any]) -> int:
    from train.world import world

    table, folder = table_of(given["method"]), Path(given["out"])
    chosen = _chosen(table, given["rows"])
    base = _base(given)
    with world(given["device"]) as here:
        for row in chosen:
            _row(row, base, folder / row.folder, here, catalog=given["catalog"], weights=given["weights"])
        if here.is_first:
            click.echo(write(folder, table, [Line(row=row, ours=_ours(folder / row.folder)) for row in table.rows], base))
    return 0


def table_of(method: str) -> Table:
    """The table of a method. Raises CallError when it has none."""
    if method not in TABLES:
        raise CallError(f"train.ablate {method}: there is no table of it{did_you_mean(method, TABLES)}. Type one of {', '.join(TABLES)}")
    found: Table = load(TABLES, method, "ablation table")
    return found


def changed(base: "Run", row: Row) -> "Run":
    """The run of a row: `base` with the row's settings."""
    return dataclasses.replace(base, name=f"{base.name}, {row.name}").changed(row.settings or ())


def shown(table: Table, lines: Sequence[Line], base: "Run") -> str:
    """The table in Markdown, under two sentences on what its halves are."""
    heads = ["row", *(f"paper: {name}" for name in table.columns), *(f"here: {name}" for name in OURS), "note"]
    rows = [[line.row.name, *(_cell(line.row.paper.get(name, "")) for name in table.columns), *_cells(line), line.row.note] for line in lines]
    widths = [max(len(each[place]) for each in (heads, *rows)) for place in range(len(heads))]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)) for each in (heads, ["-" * width for width in widths], *rows)]
    return "\n".join(
        [
            f"{table.title}.",
            f"ANOTHER SCALE: the columns `here` are the loss of {base.backbone} on a fixed grid after {base.steps} steps of {base.global_batch}, not the paper's metric. "
            "Compare within a column.",
            "",
            *(f"| {line} |" for line in text),
        ]
    )


def write(folder: Path, table: Table, lines: Sequence[Line], base: "Run") -> str:
    """`table.md` and `table.json`; what the former says."""
    text = shown(table, lines, base)
    described = {
        "title": table.title,
        "another_scale": {"backbone": base.backbone, "steps": base.steps, "global_batch": base.global_batch, "seed": base.seed},
        "rows": [{"name": line.row.name, "paper": dict(line.row.paper), "here": line.ours, "note": line.row.note, "settings": line.row.settings} for line in lines],
    }
    for name, content in (("table.md", text + "\n"), ("table.json", json.dumps(described, indent=1))):
        partial = folder / f".{name}.partial"
        partial.write_text(content)
        os.replace(partial, folder / name)
    return text


def _chosen(table: Table, names: Sequence[str]) -> list[Row]:
    """The rows that are to be run."""
    known = {row.name: row for row in table.rows}
    for name in names:
        if name not in known:
            raise CallError(f"--row {name!r}: there is no such row{did_you_mean(name, known)}. Rows: {', '.join(known)}")
        if known[name].settings is None:
            raise CallError(f"--row {name!r}: is not run here: {known[name].note}. Name another row")
    return [row for row in table.rows if row.settings is not None and (not names or row.name in names)]


def _base(given: Mapping[str, Any]) -> "Run":
    """The run that rows change."""
    from train.recipes import recipe

    backbone = given["backbone"] or only_backbone(given["catalog"], given["method"])
    run = recipe(given["recipe"], given["method"], backbone)
    return dataclasses.replace(run, **{name: given[name] for name in ("steps", "seed", "where") if given[name] is not None}).changed(given["settings"])


def _row(row: Row, base: "Run", folder: Path, here: "World", *, catalog: str, weights: str | None) -> None:
    """One row's run, begun or gone on with. Raises CallError when its folder holds a run with other settings."""
    from train.begin import stored_config
    from train.loop import fit
    from train.trained_run import CONFIG

    run, begun = changed(base, row), (folder / CONFIG).is_file()
    if begun:
        was, wanted = ({name: value for name, value in each.items() if name in run.describe()} for each in (stored_config(folder), json.loads(json.dumps(run.describe()))))
        if other := sorted(name for name in wanted if was.get(name) != wanted[name] and name != "checkpoints"):
            raise CallError(f"{folder}: holds this row with another {', '.join(other)}. Give the settings it was begun with, or another --out")
    log.info("row %r%s", row.name, ", going on" if begun else "")
    fit(run, catalog=catalog, folder=folder, world=here, resume=begun, weights=weights)


def _ours(folder: Path) -> dict[str, float] | None:
    """What a row's folder says of it; None where no run has come to its end."""
    from train.begin import evaluations, is_finished, stored_config
    from train.checkpoint import newest, read_stamp
    from train.run import Run
    from train.trained_run import CONFIG

    if not (folder / CONFIG).is_file() or (path := newest(folder)) is None:
        return None
    config = stored_config(folder)
    rows = evaluations(folder)
    if not rows or not is_finished(Run.described(config, folder / CONFIG), folder, read_stamp(path).step):
        return None
    last = rows[-1]
    return dict(zip(OURS, (last["eval_loss"], rows[0]["eval_loss"], last["eval_drop"], last["eval_drop_se"], config["trained_parameters"]), strict=True))


def _cells(line: Line) -> list[str]:
    if line.ours is None:
        return ["not run", *[""] * (len(OURS) - 1)]
    return [f"{line.ours[name]:.4f}" if name != OURS[-1] else f"{line.ours[name]:,}" for name in OURS]


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    command(prog_name="python -m train.ablate")
