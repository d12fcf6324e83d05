"""The miniature benchmark: what masks point at, what a caption does, what a reference does, in one table.

    python -m train.miniature --tier smoke|cpu|gpu [--out FOLDER] [--only PART ...] [--backbone NAME]      (`make miniature`: cpu)

Catalogs, methods and samples are made from nothing beside the tiny models that ship, and scored without a learned judge: each clip's
scene is known, so every condition is rendered for it and the nearest is taken. Writes table.md, each part's figures and a contact sheet a row.
Stopped, the same command goes on at the part that it was at; other tiny models begin anew. Seeds may run side by side, a command with
--seed for each; without it the same command then prints the table of all.
Exit status: 0 every check of the tier holds, 1 one does not, 2 the call was wrong. Exercised by
`pytest tests/train/miniature/test_bench.py`.
"""

import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch

from train.miniature.rows import TRIALS, Bench, Row
from train.miniature.tiers import CHECKS, TIERS, Tier
from vapdata.errors import CallError, VapdataError

COLUMNS = ("accuracy", "but_fade", "psnr_db", "clips", "pointing", "iou", "plain", "right", "shuffled", "truth", "stock")
"""Figures in the order of the table."""


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--tier", type=click.Choice(list(TIERS)), default="smoke", show_default=True, help=f"How large: {'; '.join(each.says for each in TIERS.values())}.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("miniature"), show_default=True, help="Folder for catalogs, runs, sheets and the table.")
@click.option("--only", multiple=True, type=click.Choice(list(TRIALS)), help="Only this part of the table; may be repeated.")
@click.option("--backbone", type=click.Choice(["tiny-cogvideox", "tiny-wan"]), default="tiny-cogvideox", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:0: where methods train and clips are made; catalogs are built on the CPU.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Instead of the tier's seeds; may be repeated.")
def command(tier: str, out: Path, only: Sequence[str], backbone: str, device: str, seeds: Sequence[int]) -> None:
    """Trains methods on the miniature world and prints what they learned as one table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    try:
        held = bench(TIERS[tier], out, only or tuple(TRIALS), backbone, seeds, device)
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, CallError) else 1)
    sys.exit(0 if held else 1)


def bench(tier: Tier, out: Path, parts: Sequence[str], backbone: str, seeds: Sequence[int] = (), device: str = "cpu") -> bool:
    """Runs the parts for every seed, prints and writes the table; whether the tier's checks hold."""
    found: list[list[Row]] = []
    for seed in seeds or tier.seeds:
        folder = out / f"{tier.name}-{backbone}-seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        found.append([row for part in parts for row in _rows(Bench(tier, seed, folder, backbone, device), part)])
    figures = averaged(found)
    text = table(figures)
    (out / "table.md").write_text(text + "\n")
    click.echo(text)
    return checked(figures) if tier.checked else True


def _rows(bench: Bench, part: str) -> list[Row]:
    """A part's rows: those that this folder holds of an earlier call, else worked out and kept in it."""
    kept = bench.folder / f"{part}-{bench.version}.json"
    if not kept.is_file():
        made = {row.name: row.figures for row in TRIALS[part](bench)}
        kept.write_text(json.dumps(made, indent=1))
    return [Row(name=name, figures=figures) for name, figures in json.loads(kept.read_text()).items()]


def averaged(found: Sequence[Sequence[Row]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Row -> figure -> mean and standard deviation over seeds (0 for one)."""
    made: dict[str, dict[str, list[float]]] = {}
    for rows in found:
        for row in rows:
            for key, value in row.figures.items():
                made.setdefault(row.name, {}).setdefault(key, []).append(float(value))
    return {name: {key: (statistics.fmean(each), statistics.stdev(each) if len(each) > 1 else 0.0) for key, each in values.items()} for name, values in made.items()}


def table(figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Markdown: one line a row, its figures by name, with their deviation where there are several seeds."""
    lines = ["| row | figures |", "|---|---|"]
    for name, values in figures.items():
        shown = [f"{key.replace('_', ' ')} {_number(key, *values[key])}" for key in COLUMNS if key in values]
        lines.append(f"| {name} | {' · '.join(shown)} |")
    return "\n".join(lines)


def checked(figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> bool:
    """Prints every check of which the figures are there, and whether all of those hold."""
    flat = {f"{name}/{key}": value[0] for name, values in figures.items() for key, value in values.items()}
    held = []
    for check in CHECKS:
        try:
            value = check.value(flat)
        except KeyError:  # that part of the table was not asked for
            continue
        held.append(value >= check.least)
        click.echo(f"{'holds' if held[-1] else 'FAILS'}  {check.says}: {value:.3f}, wanted {check.least:g} or more")
    return all(held)


def _number(key: str, mean: float, deviation: float) -> str:
    if key == "clips":
        return f"{mean:.0f}"
    digits = 1 if key == "psnr_db" else 2
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation else "")


if __name__ == "__main__":
    command(prog_name="python -m train.miniature")
